//! Tells what it knows of its client; tests/guests/README.md says how.

use fastly::{Request, Response};

fn main() {
    let req = Request::from_client();
    let hello = req.get_tls_client_hello().map(|hello| format!("{} bytes, type {}", hello.len(), hello[0]));
    let ja3 = req.get_tls_ja3_md5().map(|md5| md5.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let lines = [
        format!("url: {}", req.get_url_str()),
        format!("protocol: {:?}", req.get_tls_protocol().ok().flatten()),
        format!("cipher: {:?}", req.get_tls_cipher_openssl_name().ok().flatten()),
        format!("server name: {:?}", req.get_tls_client_servername()),
        format!("hello: {hello:?}"),
        format!("ja3: {ja3:?}"),
        format!("ja4: {:?}", req.get_tls_ja4()),
        format!("version: {:?}", req.get_version()),
        format!("h2: {:?}", req.get_client_h2_fingerprint()),
        format!("original: {:?}", req.get_client_oh_fingerprint()),
        format!("certificate: {:?}", req.get_tls_raw_client_certificate()),
        format!("verified: {:?}", req.get_tls_client_cert_verify_result()),
    ];
    Response::from_body(lines.join("\n") + "\n").send_to_client();
}
