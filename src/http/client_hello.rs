//! What a client's first TLS message (RFC 8446 §4.1.2) says of the client: the fingerprints JA3 and JA4.

use md5::Md5;
use sha2::{Digest, Sha256};

/// A handshake message of this type is a ClientHello.
const CLIENT_HELLO: u8 = 1;

/// A record of this type carries handshake messages.
const HANDSHAKE: u8 = 22;

/// Longest ClientHello that is looked at, in bytes.
pub const MAX: usize = 16 << 10;

const SERVER_NAME: u16 = 0;
const GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURES: u16 = 13;
const ALPN: u16 = 16;
const VERSIONS: u16 = 43;

/// The ClientHello at the start of what a client sent, taken out of its records: the handshake message
/// with its header. `None` when it is not all there or something else.
pub fn message(mut sent: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let (header, rest) = sent.split_at_checked(5)?;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE {
            return None;
        }
        let (fragment, rest) = rest.split_at_checked(length)?;
        message.extend_from_slice(fragment);
        sent = rest;
        if let [kind, a, b, c, ..] = message[..] {
            let whole = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if kind != CLIENT_HELLO || whole > MAX {
                return None;
            }
            if message.len() >= whole {
                message.truncate(whole);
                return Some(message);
            }
        }
    }
}

/// A ClientHello, as far as the fingerprints go.
#[derive(Debug, Default)]
pub struct ClientHello {
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    groups: Vec<u16>,
    point_formats: Vec<u16>,
    signatures: Vec<u16>,
    versions: Vec<u16>,
    alpn: Option<Vec<u8>>,
}

/// Reads what is encoded as lengths and bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What follows a length of one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?.into();
        self.take(length)
    }

    /// What follows a length of two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?.into();
        self.take(length)
    }
}

/// Values without those that clients throw in to keep servers from taking unknown ones amiss (RFC 8701).
fn values(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).filter(|value| !is_grease(*value)).collect()
}

fn is_grease(value: u16) -> bool {
    let [a, b] = value.to_be_bytes();
    a == b && a & 0x0f == 0x0a
}

impl ClientHello {
    /// Parses a handshake message.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message.get(4..)?);
        let version = reader.u16()?;
        reader.take(32)?;
        reader.short()?;
        let mut hello = Self { version, ciphers: values(reader.long()?), ..Self::default() };
        reader.short()?;
        // A hello without extensions ends here.
        let mut extensions = Reader(reader.long().unwrap_or_default());
        while let Some(kind) = extensions.u16() {
            let mut body = Reader(extensions.long()?);
            match kind {
                GROUPS => hello.groups = values(body.long()?),
                POINT_FORMATS => hello.point_formats = body.short()?.iter().map(|format| (*format).into()).collect(),
                SIGNATURES => hello.signatures = values(body.long()?),
                VERSIONS => hello.versions = values(body.short()?),
                ALPN => hello.alpn = Some(Reader(body.long()?).short()?.to_vec()),
                _ => {}
            }
            if !is_grease(kind) {
                hello.extensions.push(kind);
            }
        }
        Some(hello)
    }

    /// JA3: the MD5 of version, cipher suites, extensions, groups and point formats in decimal.
    pub fn ja3(&self) -> [u8; 16] {
        Md5::digest(self.ja3_text()).into()
    }

    fn ja3_text(&self) -> String {
        let list = |values: &[u16]| values.iter().map(u16::to_string).collect::<Vec<_>>().join("-");
        let lists = [&self.ciphers, &self.extensions, &self.groups, &self.point_formats].map(|values| list(values));
        format!("{},{}", self.version, lists.join(","))
    }

    /// JA4, for TLS over TCP.
    pub fn ja4(&self) -> String {
        let version = match self.versions.iter().max().copied().unwrap_or(self.version) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            _ => "00",
        };
        let named = if self.extensions.contains(&SERVER_NAME) { 'd' } else { 'i' };
        let (ciphers, extensions) = (self.ciphers.len().min(99), self.extensions.len().min(99));
        let mut sorted = self.ciphers.clone();
        sorted.sort_unstable();
        let cipher_hash = short_hash(&hex_list(&sorted));
        let mut sorted: Vec<u16> = self.extensions.iter().copied().filter(|kind| *kind != SERVER_NAME && *kind != ALPN).collect();
        sorted.sort_unstable();
        let mut text = hex_list(&sorted);
        if !text.is_empty() && !self.signatures.is_empty() {
            text = format!("{text}_{}", hex_list(&self.signatures));
        }
        let extension_hash = short_hash(&text);
        format!("t{version}{named}{ciphers:02}{extensions:02}{}_{cipher_hash}_{extension_hash}", self.alpn_letters())
    }

    /// First and last character of the first protocol offered, in hexadecimal if they are odd.
    fn alpn_letters(&self) -> String {
        match self.alpn.as_deref() {
            None | Some([]) => "00".to_owned(),
            Some(name) => {
                let (first, last) = (name[0], name[name.len() - 1]);
                if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
                    [first, last].map(char::from).iter().collect()
                } else {
                    let (first, last) = (format!("{first:02x}"), format!("{last:02x}"));
                    format!("{}{}", &first[..1], &last[1..])
                }
            }
        }
    }
}

fn hex_list(values: &[u16]) -> String {
    values.iter().map(|value| format!("{value:04x}")).collect::<Vec<_>>().join(",")
}

/// The first twelve digits of a SHA-256; zeros for nothing.
fn short_hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of JA4's own documentation (Chrome).
    fn chrome() -> ClientHello {
        ClientHello {
            version: 0x0303,
            ciphers: vec![
                0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
            ],
            extensions: vec![
                0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b, 0xff01, 0x000b, 0x000a,
                0x0015,
            ],
            groups: vec![0x001d, 0x0017, 0x0018],
            point_formats: vec![0],
            signatures: vec![0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601],
            versions: vec![0x0304, 0x0303],
            alpn: Some(b"h2".to_vec()),
        }
    }

    #[test]
    fn ja4_as_documented() {
        assert_eq!(chrome().ja4(), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn ja3_as_documented() {
        // From JA3's own description.
        let hello = ClientHello {
            version: 769,
            ciphers: vec![47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4],
            extensions: vec![0, 10, 11],
            groups: vec![23, 24, 25],
            point_formats: vec![0],
            ..ClientHello::default()
        };
        assert_eq!(hello.ja3_text(), "769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0");
        let digits: String = hello.ja3().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digits, "ada70206e40642a3e4461f35503241d5");
        let bare = ClientHello { version: 769, ciphers: vec![4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99], ..ClientHello::default() };
        assert_eq!(bare.ja3_text(), "769,4-5-10-9-100-98-3-6-19-18-99,,,");
        assert_eq!(bare.ja3().iter().map(|byte| format!("{byte:02x}")).collect::<String>(), "de350869b8c85de67a350c8d186f11e6");
    }

    /// A hello with a GREASE cipher and a GREASE extension, SNI and ALPN, in records of `size` bytes.
    fn wire(size: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 4, 0x1a, 0x1a, 0x13, 0x01]);
        body.extend([1, 0]);
        let alpn = [0, 16, 0, 11, 0, 9, 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1'];
        let grease = [0x2a, 0x2a, 0, 0];
        let name = [0, 0, 0, 6, 0, 4, 0, 0, 1, b'a'];
        let length = (alpn.len() + grease.len() + name.len()) as u16;
        body.extend(length.to_be_bytes());
        body.extend(grease);
        body.extend(name);
        body.extend(alpn);
        let mut message = vec![1, 0, 0, body.len() as u8];
        message.extend(body);
        let records = message.chunks(size).flat_map(|piece| [&[22, 3, 1, 0, piece.len() as u8], piece].concat());
        records.collect()
    }

    #[test]
    fn from_the_wire() {
        let whole = message(&wire(200)).expect("a hello");
        assert_eq!(message(&wire(7)).expect("a hello"), whole);
        let hello = ClientHello::parse(&whole).expect("a hello");
        assert_eq!(hello.ja3_text(), "771,4865,0-16,,");
        assert!(hello.ja4().starts_with("t12d0102h1_"), "{}", hello.ja4());
    }

    #[test]
    fn what_is_broken_off_or_something_else() {
        let wire = wire(200);
        for length in 0..wire.len() {
            assert_eq!(message(&wire[..length]), None);
        }
        assert_eq!(message(b"GET / HTTP/1.1\r\n"), None);
        let whole = message(&wire).expect("a hello");
        for length in 0..whole.len() {
            // Whatever comes of it, it ends.
            drop(ClientHello::parse(&whole[..length]));
        }
    }
}
