//! An origin that says byte by byte what it is told to, and notes what it is asked.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::harness::PATIENCE;

use super::table::Reply;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
}

impl Seen {
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }
}

#[derive(Default)]
struct State {
    replies: HashMap<String, VecDeque<Reply>>,
    seen: Vec<Seen>,
    /// Steps that bodies have been let go on by path.
    steps: HashMap<String, usize>,
}

/// It ends with the test process. Every answer ends its connection, so that none is asked again on a stale one.
#[derive(Clone)]
pub struct Origin {
    pub addr: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Origin {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("an address");
        let origin = Self { addr, state: Arc::default() };
        let serving = origin.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let origin = serving.clone();
                // A client that goes away ends it.
                std::thread::spawn(move || drop(origin.serve(stream)));
            }
        });
        origin
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What is answered for a path, in this order; the last again and again.
    pub fn script(&self, path: &str, replies: &[Reply]) {
        self.state.0.lock().expect("the script").replies.insert(path.to_owned(), replies.iter().cloned().collect());
    }

    /// Requests for a path.
    pub fn asked(&self, path: &str) -> Vec<Seen> {
        let state = self.state.0.lock().expect("the script");
        state.seen.iter().filter(|seen| seen.target.split('?').next() == Some(path)).cloned().collect()
    }

    /// Lets the bodies for a path go on by one step.
    pub fn go_on(&self, path: &str) {
        *self.state.0.lock().expect("the script").steps.entry(path.to_owned()).or_default() += 1;
        self.state.1.notify_all();
    }

    /// Waits until a path has been asked for so often.
    pub fn wait_asked(&self, path: &str, count: usize) {
        let state = self.state.0.lock().expect("the script");
        let asked = |state: &mut State| state.seen.iter().filter(|seen| seen.target.split('?').next() == Some(path)).count() < count;
        let (_state, late) = self.state.1.wait_timeout_while(state, PATIENCE, asked).expect("the script");
        assert!(!late.timed_out(), "{path} was not asked for {count} times");
    }

    fn wait_step(&self, path: &str, step: usize) {
        let state = self.state.0.lock().expect("the script");
        let before = |state: &mut State| state.steps.get(path).copied().unwrap_or_default() < step;
        drop(self.state.1.wait_timeout_while(state, PATIENCE, before).expect("the script"));
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let Some(request) = read(&mut stream)? else { return Ok(()) };
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        let method = request.method.clone();
        let reply = {
            let mut state = self.state.0.lock().expect("the script");
            state.seen.push(request);
            self.state.1.notify_all();
            let Some(replies) = state.replies.get_mut(&path) else { panic!("nothing is scripted for {path}") };
            if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }.expect("a reply")
        };
        if reply.wait {
            self.wait_step(&path, 1);
        }
        if reply.broken {
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let bodiless = reply.status == 304 || reply.status == 204 || method == "HEAD";
        let lies = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if !bodiless && reply.sized && !lies {
            head.push_str(&format!("Content-Length: {}\r\n", reply.body.replace('|', "").len()));
        } else if !bodiless && !reply.sized {
            head.push_str("Transfer-Encoding: chunked\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if bodiless {
            return Ok(());
        }
        for (step, piece) in reply.body.split('|').enumerate() {
            if step > 0 {
                self.wait_step(&path, step);
            }
            match reply.sized {
                true => stream.write_all(piece.as_bytes())?,
                false if piece.is_empty() => {}
                false => stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())?,
            }
            stream.flush()?;
        }
        if !reply.sized && !reply.cut {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }
}

fn read(stream: &mut TcpStream) -> std::io::Result<Option<Seen>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        if let Ok(httparse::Status::Complete(length)) = request.parse(&bytes) {
            let headers: Vec<(String, String)> =
                request.headers.iter().map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned())).collect();
            let (method, target) = (request.method.unwrap_or_default().to_owned(), request.path.unwrap_or_default().to_owned());
            let told =
                headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length")).and_then(|(_, value)| value.parse().ok());
            let mut body = bytes[length..].to_vec();
            while body.len() < told.unwrap_or(0) {
                let count = stream.read(&mut piece)?;
                if count == 0 {
                    return Ok(None);
                }
                body.extend_from_slice(&piece[..count]);
            }
            return Ok(Some(Seen { method, target, headers }));
        }
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}
