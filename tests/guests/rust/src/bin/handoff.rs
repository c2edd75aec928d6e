//! Hands clients to backends; tests/guests/README.md says what each path does.

use fastly::handle::{BodyHandle, ResponseHandle};
use fastly::http::{HeaderName, HeaderValue, StatusCode};
use fastly_shared::FastlyStatus;

#[link(wasm_import_module = "fastly_http_req")]
unsafe extern "C" {
    fn redirect_to_websocket_proxy(backend: *const u8, length: usize) -> FastlyStatus;
    fn redirect_to_grip_proxy(backend: *const u8, length: usize) -> FastlyStatus;
    fn upgrade_websocket(backend: *const u8, length: usize) -> FastlyStatus;
}

fn main() {
    let (mut request, mut body) = fastly::handle::client_request_and_body();
    let url = request.get_url(4096).expect("a URL");
    let path = url.path().trim_start_matches('/');
    let (how, backend) = path.split_once('/').unwrap_or((path, "ws"));
    let backend = backend.split('/').next().unwrap_or_default();
    println!("upgrade: {:?}", request.get_header_value(&HeaderName::from_static("upgrade"), 100));
    request.insert_header(&HeaderName::from_static("x-guest"), &HeaderValue::from_static("was here"));
    request.insert_header(&HeaderName::from_static("sec-websocket-key"), &HeaderValue::from_static("not the client's"));
    let status = match how {
        "ws" => request.handoff_websocket(backend).map_err(|error| format!("{error:?}")),
        "ws1" => code(unsafe { redirect_to_websocket_proxy(backend.as_ptr(), backend.len()) }),
        "up" => code(unsafe { upgrade_websocket(backend.as_ptr(), backend.len()) }),
        "grip" => request.handoff_fanout(backend).map_err(|error| format!("{error:?}")),
        "grip1" => code(unsafe { redirect_to_grip_proxy(backend.as_ptr(), backend.len()) }),
        "read" => {
            let mut byte = [0];
            std::io::Read::read_exact(&mut body, &mut byte).expect("a byte");
            request.handoff_websocket(backend).map_err(|error| format!("{error:?}"))
        }
        "twice" => {
            request.handoff_websocket(backend).expect("once");
            println!("again: {:?}", request.handoff_websocket(backend));
            Ok(())
        }
        _ => Err("what?".to_owned()),
    };
    if let Err(text) = status {
        let mut response = ResponseHandle::new();
        response.set_status(StatusCode::IM_A_TEAPOT);
        let mut body = BodyHandle::new();
        std::io::Write::write_all(&mut body, text.as_bytes()).expect("writes");
        response.send_to_client(body);
    }
}

fn code(status: FastlyStatus) -> Result<(), String> {
    if status == FastlyStatus::OK { Ok(()) } else { Err(format!("{status:?}")) }
}
