//! A client that shows exactly what is on the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::harness::PATIENCE;

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The pieces of a chunked body.
    pub chunks: Vec<Vec<u8>>,
    /// The fields behind a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Whether the body came to its proper end.
    pub whole: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The first value of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }
}

/// A connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    trailers: Vec<(String, String)>,
}

/// Sends bytes on a connection of their own and reads one response.
pub fn send(addr: SocketAddr, request: &str) -> Answer {
    let mut connection = Connection::open(addr);
    connection.write(request.as_bytes());
    connection.answer()
}

/// The same for a request of any method.
pub fn send_as(addr: SocketAddr, request: &str, method: &str) -> Answer {
    let mut connection = Connection::open(addr);
    connection.write(request.as_bytes());
    if method == "HEAD" { Answer { whole: true, ..connection.head() } } else { connection.answer() }
}

impl Connection {
    pub fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        Self { stream, buffer: Vec::new(), trailers: Vec::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("writes");
    }

    /// Writes what the peer takes; true if it took all.
    pub fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// More bytes; false at the end.
    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("reading: {error}"),
        }
    }

    /// Bytes up to and with a mark; `None` when the connection ends first.
    fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    /// Whether the peer has closed, without more bytes.
    pub fn closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill()
    }

    /// The next head, with no body read.
    pub fn head(&mut self) -> Answer {
        let head = self.until(b"\r\n\r\n").expect("a response head");
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&head).expect("a response head");
        Answer {
            status: parsed.code.expect("a status"),
            headers: parsed.headers.iter().map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned())).collect(),
            body: Vec::new(),
            chunks: Vec::new(),
            trailers: Vec::new(),
            whole: false,
        }
    }

    /// The first bytes of a body that has a length, or one chunk or more of one that has none; they stay to be read again.
    pub fn peek(&mut self, length: usize) -> String {
        // What is between chunks is not of the body.
        loop {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            let lines = text.split("\r\n").collect::<Vec<_>>();
            let sized = lines.len() > 1 && usize::from_str_radix(lines[0], 16).is_ok();
            let body = if sized { lines.iter().skip(1).step_by(2).copied().collect::<String>() } else { text.clone() };
            if body.len() >= length {
                return body[..length].to_owned();
            }
            assert!(self.fill(), "the body ends after {body:?}");
        }
    }

    /// Takes `length` bytes without keeping them; true if they came.
    pub fn discard(&mut self, length: u64) -> bool {
        let mut left = length.saturating_sub(self.buffer.len() as u64);
        self.buffer.drain(..self.buffer.len().min(length as usize));
        let mut piece = vec![0; 256 << 10];
        while left > 0 {
            let room = piece.len().min(left as usize);
            match self.stream.read(&mut piece[..room]) {
                Ok(0) | Err(_) => return false,
                Ok(n) => left -= n as u64,
            }
        }
        true
    }

    /// The next chunk; `Some(empty)` is the last, `None` a connection that ended early.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until(b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&size).expect("text").trim(), 16).expect("a chunk size");
        if size == 0 {
            self.trailers = self.fields()?;
            return Some(Vec::new());
        }
        let mut chunk = self.exactly(size + 2)?;
        chunk.truncate(size);
        Some(chunk)
    }

    /// The fields behind the last chunk.
    fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut trailers = Vec::new();
        loop {
            let line = String::from_utf8(self.until(b"\r\n")?).expect("text");
            let Some((name, value)) = line.trim_end().split_once(": ") else { return Some(trailers) };
            trailers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The next response; `None` if the peer goes away before its head.
    pub fn try_answer(&mut self) -> Option<Answer> {
        while !self.buffer.windows(4).any(|window| window == b"\r\n\r\n") {
            if !self.fill() {
                return None;
            }
        }
        Some(self.answer())
    }

    /// The next response to a GET or POST.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if matches!(answer.status, 204 | 304) {
            answer.whole = true;
        } else if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                if chunk.is_empty() {
                    answer.trailers = std::mem::take(&mut self.trailers);
                    answer.whole = true;
                    break;
                }
                answer.body.extend_from_slice(&chunk);
                answer.chunks.push(chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().expect("a length");
            if let Some(body) = self.exactly(length) {
                answer.body = body;
                answer.whole = true;
            } else {
                answer.body = std::mem::take(&mut self.buffer);
            }
        } else {
            while self.fill() {}
            answer.body = std::mem::take(&mut self.buffer);
            answer.whole = true;
        }
        answer
    }
}
