//! Request and response heads, as guests edit them and as the wire carries them.

use ::http::{HeaderMap, Method, StatusCode, Uri, Version};

/// Who decides `Content-Length` and `Transfer-Encoding` (abi.md "framing_headers_mode").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// The host; what the guest set is replaced.
    #[default]
    Automatic,
    /// The guest's headers are taken at their word.
    Manual,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Method, `GET` at first.
    pub method: Method,
    /// Absolute for requests from clients; a guest may set anything that parses.
    pub uri: Uri,
    /// HTTP version.
    pub version: Version,
    /// Fields, names in lower case, in order of first appearance of the name.
    pub headers: HeaderMap,
    /// Who frames the body.
    pub framing: Framing,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self {
            method: Method::GET,
            uri: Uri::from_static("/"),
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
            framing: Framing::Automatic,
        }
    }
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// Status, 200 at first.
    pub status: StatusCode,
    /// HTTP version.
    pub version: Version,
    /// Fields, names in lower case.
    pub headers: HeaderMap,
    /// Who frames the body.
    pub framing: Framing,
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self { status: StatusCode::OK, version: Version::HTTP_11, headers: HeaderMap::new(), framing: Framing::Automatic }
    }
}

/// The field names of a request head as it came, in their order and case, with repetitions. `head` is a
/// whole head that has been parsed before.
pub fn field_names(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip_while(|line| line.trim_ascii().is_empty()).skip(1);
    lines.filter_map(|line| Some(&line[..line.iter().position(|byte| *byte == b':')?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_on_the_wire() {
        let head = b"\r\nGET http://a:80/ HTTP/1.1\r\nHost: a\r\nx-Two: 1:2\r\nX-TWO: 3\r\n\r\n";
        let names: Vec<_> = field_names(head).collect();
        assert_eq!(names, [&b"Host"[..], b"x-Two", b"X-TWO"]);
    }
}
