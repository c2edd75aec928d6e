//! Writes MaxMind databases (format 2.0), as small as a test needs them.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// A database of `kind` with a record for each network.
pub fn database(kind: &str, records: &[(&str, Json)]) -> Vec<u8> {
    let mut tree = vec![[Link::None, Link::None]];
    let mut data = Vec::new();
    for (network, record) in records {
        let offset = data.len();
        encode(record, &mut data);
        let network: ipnet::IpNet = network.parse().expect("a network");
        let (bits, length) = match network {
            // IPv4 is in the first 32 bits behind 96 zeros.
            ipnet::IpNet::V4(network) => (u128::from(u32::from(network.addr())), 96 + network.prefix_len()),
            ipnet::IpNet::V6(network) => (u128::from(network.addr()), network.prefix_len()),
        };
        let mut node = 0;
        for at in 0..length {
            let side = (bits >> (127 - u32::from(at)) & 1) as usize;
            if at + 1 == length {
                tree[node][side] = Link::Data(offset);
                break;
            }
            node = match tree[node][side] {
                Link::Node(next) => next,
                Link::None | Link::Data(_) => {
                    tree.push([Link::None, Link::None]);
                    let next = tree.len() - 1;
                    tree[node][side] = Link::Node(next);
                    next
                }
            };
        }
    }
    let count = tree.len();
    let mut file = Vec::new();
    for node in &tree {
        for link in node {
            let value = match link {
                Link::Node(next) => *next,
                Link::None => count,
                Link::Data(offset) => count + 16 + offset,
            };
            file.extend_from_slice(&u32::try_from(value).expect("fits").to_be_bytes());
        }
    }
    file.extend_from_slice(&[0; 16]);
    file.extend_from_slice(&data);
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    let metadata = serde_json::json!({
        "binary_format_major_version": 2, "binary_format_minor_version": 0, "build_epoch": 1_700_000_000, "database_type": kind,
        "description": {}, "ip_version": 6, "languages": ["en"], "node_count": count, "record_size": 32,
    });
    // The count alone is of 32 bits whatever it is.
    let mut fields = Vec::new();
    encode(&metadata, &mut fields);
    let place = fields.windows(10).position(|window| window == b"node_count").expect("is there") + 10;
    fields.splice(place..place + 3, [6 << 5 | 4].into_iter().chain(u32::try_from(count).expect("fits").to_be_bytes()));
    file.extend_from_slice(&fields);
    file
}

#[derive(Clone, Copy)]
enum Link {
    None,
    Node(usize),
    Data(usize),
}

fn control(kind: u8, size: usize, into: &mut Vec<u8>) {
    let (short, more) = if size < 29 { (size as u8, None) } else { (29, Some(u8::try_from(size - 29).expect("short"))) };
    if kind < 8 {
        into.push(kind << 5 | short);
    } else {
        into.extend([short, kind - 7]);
    }
    into.extend(more);
}

fn encode(value: &Json, into: &mut Vec<u8>) {
    match value {
        Json::String(text) => {
            control(2, text.len(), into);
            into.extend_from_slice(text.as_bytes());
        }
        Json::Number(number) => match number.as_u64() {
            Some(number) => {
                // As small a type as holds it: versions are of 16 bits, the time of 64.
                if let Ok(small) = u16::try_from(number) {
                    control(5, 2, into);
                    into.extend_from_slice(&small.to_be_bytes());
                } else if let Some(large) = (number > 1_000_000_000).then_some(number) {
                    control(9, 8, into);
                    into.extend_from_slice(&large.to_be_bytes());
                } else {
                    control(6, 4, into);
                    into.extend_from_slice(&u32::try_from(number).expect("32 bits").to_be_bytes());
                }
            }
            None => {
                control(3, 8, into);
                into.extend_from_slice(&number.as_f64().expect("a number").to_be_bytes());
            }
        },
        Json::Bool(value) => control(14, usize::from(*value), into),
        Json::Array(items) => {
            control(11, items.len(), into);
            items.iter().for_each(|item| encode(item, into));
        }
        Json::Object(fields) => {
            control(7, fields.len(), into);
            for (name, field) in fields.iter().collect::<BTreeMap<_, _>>() {
                control(2, name.len(), into);
                into.extend_from_slice(name.as_bytes());
                encode(field, into);
            }
        }
        Json::Null => panic!("there is no null"),
    }
}
