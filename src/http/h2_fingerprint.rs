//! The HTTP/2 fingerprint of a client, in the form Akamai has published ("Passive Fingerprinting of
//! HTTP/2 Clients"): `SETTINGS|WINDOW_UPDATE|PRIORITY|pseudo-header order`, read from the first bytes of
//! a connection.

/// What a connection begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes after which the first request's head has begun with any client that means well.
pub const ENOUGH: usize = 16 << 10;

const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// The fingerprint, when `bytes` hold a first request's head.
pub fn of(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes.strip_prefix(PREFACE)?;
    let mut settings = None;
    let mut window = None;
    let mut priorities = Vec::new();
    loop {
        let (kind, flags, stream, payload, behind) = frame(rest)?;
        rest = behind;
        match kind {
            SETTINGS if flags & ACK == 0 && settings.is_none() => settings = Some(settings_of(payload)),
            WINDOW_UPDATE if stream == 0 && window.is_none() => window = Some(number(payload, 0)? & 0x7fff_ffff),
            PRIORITY => priorities.push(priority_of(stream, payload)?),
            HEADERS => {
                let mut block = payload;
                if flags & PADDED != 0 {
                    let padding = usize::from(*block.first()?);
                    block = block.get(1..block.len().checked_sub(padding)?)?;
                }
                if flags & WITH_PRIORITY != 0 {
                    block = block.get(5..)?;
                }
                let window = window.map_or_else(|| "00".to_owned(), |window| window.to_string());
                let priorities = if priorities.is_empty() { "0".to_owned() } else { priorities.join(",") };
                return Some(format!("{}|{window}|{priorities}|{}", settings.unwrap_or_default(), pseudo_headers(block)));
            }
            _ => {}
        }
    }
}

type Frame<'a> = (u8, u8, u32, &'a [u8], &'a [u8]);

/// Type, flags, stream, payload and what is behind (RFC 9113 §4.1).
fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let header = bytes.get(..9)?;
    let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
    let stream = number(header, 5)? & 0x7fff_ffff;
    Some((header[3], header[4], stream, bytes.get(9..9 + length)?, &bytes[9 + length..]))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// `id:value;…` in the order of the frame.
fn settings_of(payload: &[u8]) -> String {
    let pairs = payload.chunks_exact(6).map(|setting| {
        let id = u16::from_be_bytes([setting[0], setting[1]]);
        let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
        format!("{id}:{value}")
    });
    pairs.collect::<Vec<_>>().join(";")
}

/// `stream:exclusive:depends on:weight`.
fn priority_of(stream: u32, payload: &[u8]) -> Option<String> {
    let on = number(payload, 0)?;
    let weight = u16::from(*payload.get(4)?) + 1;
    Some(format!("{stream}:{}:{}:{weight}", on >> 31, on & 0x7fff_ffff))
}

/// The first letters of the pseudo-header fields in their order, with commas. They come first (RFC 9113
/// §8.3), and in a connection's first request their names are in HPACK's static table.
fn pseudo_headers(block: &[u8]) -> String {
    let mut order: Vec<&str> = Vec::with_capacity(4);
    let mut rest = block;
    while let Some((letter, behind)) = field(rest) {
        rest = behind;
        if let Some(letter) = letter {
            order.push(letter);
        }
    }
    order.join(",")
}

/// One field of a block (RFC 7541 §6): its letter, if it is one and not a change of the table's size, and what
/// is behind. `None` at the first field that is no pseudo-header.
fn field(block: &[u8]) -> Option<(Option<&'static str>, &[u8])> {
    let first = *block.first()?;
    let (prefix, has_value) = match first {
        0x80.. => (7, false),
        0x40..0x80 => (6, true),
        0x20..0x40 => return Some((None, integer(block, 5)?.1)),
        _ => (4, true),
    };
    let (index, mut rest) = integer(block, prefix)?;
    let letter = match index {
        0 => {
            let name;
            (name, rest) = string(rest)?;
            match name? {
                b":method" => "m",
                b":authority" => "a",
                b":scheme" => "s",
                b":path" => "p",
                b":protocol" => "c",
                _ => return None,
            }
        }
        1 => "a",
        2 | 3 => "m",
        4 | 5 => "p",
        6 | 7 => "s",
        _ => return None,
    };
    if has_value {
        rest = string(rest)?.1;
    }
    Some((Some(letter), rest))
}

/// RFC 7541 §5.1.
fn integer(bytes: &[u8], prefix: u32) -> Option<(usize, &[u8])> {
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(*bytes.first()?) & mask;
    let mut rest = &bytes[1..];
    if value < mask {
        return Some((value, rest));
    }
    for shift in [0, 7, 14, 21] {
        let byte = *rest.first()?;
        rest = &rest[1..];
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// RFC 7541 §5.2; `None` for a name in Huffman's code.
fn string(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let coded = *bytes.first()? & 0x80 != 0;
    let (length, rest) = integer(bytes, 7)?;
    let text = rest.get(..length)?;
    Some(((!coded).then_some(text), &rest[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    #[test]
    fn as_chrome_does() {
        let settings = [setting(1, 65536), setting(2, 0), setting(4, 6_291_456), setting(6, 262_144)].concat();
        // :method GET, :authority as a literal, :scheme https, :path /, then user-agent.
        let block = [&[0x82, 0x41, 0x83, 1, 2, 3, 0x87, 0x84, 0x7a, 0x01, b'x'][..]].concat();
        let bytes = [
            PREFACE.to_vec(),
            framed(SETTINGS, 0, 0, &settings),
            framed(WINDOW_UPDATE, 0, 0, &15_663_105u32.to_be_bytes()),
            framed(HEADERS, 0x25, 1, &[&[0x80, 0, 0, 0, 0xff], &block[..]].concat()),
        ]
        .concat();
        assert_eq!(of(&bytes).as_deref(), Some("1:65536;2:0;4:6291456;6:262144|15663105|0|m,a,s,p"));
        assert_eq!(of(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn priorities_and_padding() {
        let bytes = [
            PREFACE.to_vec(),
            framed(SETTINGS, 0, 0, &[]),
            framed(SETTINGS, ACK, 0, &[]),
            framed(PRIORITY, 0, 3, &[0, 0, 0, 0, 200]),
            framed(PRIORITY, 0, 5, &[0x80, 0, 0, 3, 0]),
            framed(HEADERS, PADDED, 7, &[2, 0x20, 0x84, 0x00, 7, b':', b'm', b'e', b't', b'h', b'o', b'd', 1, b'X', 0x90, 0, 0]),
        ]
        .concat();
        assert_eq!(of(&bytes).as_deref(), Some("|00|3:0:0:201,5:1:3:1|p,m"));
    }

    #[test]
    fn nothing_a_client_sends_is_too_strange() {
        let mut state = 1u64;
        for length in 0..2000 {
            let mut bytes = PREFACE.to_vec();
            for _ in 0..length % 97 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push((state >> 56) as u8 & [0xff, 0x0f, 0x01][length % 3]);
            }
            drop(of(&bytes));
        }
    }
}
