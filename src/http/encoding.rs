//! Content codings (RFC 9110 §8.4): decoding gzip while it streams.

use std::io::Write as _;

use ::http::HeaderMap;
use ::http::header;
use async_trait::async_trait;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;

use super::body::{Body, BodyError, BodyStream};

/// Coded bytes that are decoded at once: no more than a thousand times as many come out.
const STEP: usize = 1 << 10;

/// Decodes a gzip-coded body and takes the fields away that speak of the coding. Anything else stays
/// as it is.
pub fn gunzip(headers: &mut HeaderMap, body: Body) -> Body {
    let coded = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| {
        let coding = coding.as_bytes().trim_ascii();
        coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip")
    });
    if !coded || body.known_length() == Some(0) {
        return body;
    }
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
    Body::stream(Box::new(Gunzip { coded: body, waiting: Bytes::new(), decoder: Some(MultiGzDecoder::new(Vec::new())) }))
}

struct Gunzip {
    coded: Body,
    /// Read and not yet decoded.
    waiting: Bytes,
    /// `None` at the end.
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
}

fn malformed(error: &std::io::Error) -> BodyError {
    BodyError::Malformed(format!("not gzip: {error}"))
}

#[async_trait]
impl BodyStream for Gunzip {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(None) };
            if self.waiting.is_empty() {
                match self.coded.chunk().await? {
                    Some(bytes) => self.waiting = bytes,
                    None => {
                        let finished = self.decoder.take().map_or(Ok(Vec::new()), MultiGzDecoder::finish);
                        let rest = finished.map_err(|error| malformed(&error))?;
                        return Ok((!rest.is_empty()).then(|| Bytes::from(rest)));
                    }
                }
            }
            let step = self.waiting.split_to(self.waiting.len().min(STEP));
            decoder.write_all(&step).map_err(|error| malformed(&error))?;
            let decoded = std::mem::take(decoder.get_mut());
            if !decoded.is_empty() {
                return Ok(Some(Bytes::from(decoded)));
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.coded.take_trailers()
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn zip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    async fn decode(coding: &'static str, pieces: &[&[u8]]) -> Result<(Vec<u8>, HeaderMap), BodyError> {
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", coding.parse().expect("a value"));
        headers.insert("content-length", "5".parse().expect("a value"));
        let mut body = Body::empty();
        pieces.iter().for_each(|piece| body.push_back(Bytes::copy_from_slice(piece)));
        let mut body = gunzip(&mut headers, body);
        let mut out = Vec::new();
        while let Some(bytes) = body.chunk().await? {
            out.extend_from_slice(&bytes);
        }
        Ok((out, headers))
    }

    #[tokio::test]
    async fn streams() {
        let zipped = zip(b"hello");
        let (text, headers) = decode("GZIP", &[&zipped[..7], &zipped[7..]]).await.expect("gzip");
        assert_eq!((text.as_slice(), headers.len()), (&b"hello"[..], 0));
        let (text, _) = decode("x-gzip", &[&zipped, &zip(b", world")]).await.expect("two members");
        assert_eq!(text, b"hello, world");
    }

    #[tokio::test]
    async fn a_bomb_comes_in_small_pieces() {
        let zipped = zip(&vec![0; 64 << 20]);
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", "gzip".parse().expect("a value"));
        let mut body = gunzip(&mut headers, Body::from(Bytes::from(zipped)));
        let mut total = 0;
        while let Some(bytes) = body.chunk().await.expect("gzip") {
            assert!(bytes.len() <= 2 << 20);
            total += bytes.len();
        }
        assert_eq!(total, 64 << 20);
    }

    #[tokio::test]
    async fn what_is_no_gzip() {
        let zipped = zip(b"hello");
        assert_eq!(decode("br", &[b"hello"]).await.expect("as it is").1.len(), 2);
        assert_eq!(decode("gzip", &[]).await.expect("nothing").1.len(), 2);
        assert!(matches!(decode("gzip", &[b"hello, this is text"]).await, Err(BodyError::Malformed(_))));
        assert!(matches!(decode("gzip", &[&zipped[..zipped.len() - 3]]).await, Err(BodyError::Malformed(_))));
    }
}
