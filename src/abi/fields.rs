//! Header fields as guests read and edit them, shared by requests and responses.

use ::http::header::{Entry, HeaderMap, HeaderName, HeaderValue};

use super::status::{HostError, HostResult};
use super::values::{Buf, Paged, Str};

/// The distinct names, in order of first appearance.
pub fn names(headers: &HeaderMap) -> Paged {
    Paged::new(headers.keys())
}

/// The first value of a name; INVAL when there is none, as the SDKs expect.
pub fn value(headers: &HeaderMap, name: &Str) -> HostResult<Buf<HeaderValue>> {
    match headers.get(parse_name(name)?) {
        Some(value) => Ok(Buf(value.clone())),
        None => Err(HostError::inval("no such header")),
    }
}

/// All values of a name; none is no error.
pub fn values(headers: &HeaderMap, name: &Str) -> HostResult<Paged> {
    Ok(Paged::new(headers.get_all(parse_name(name)?).iter()))
}

/// Replaces a name's values by those in `values`, each followed by NUL.
pub fn set_values(headers: &mut HeaderMap, name: &Str, values: &Str) -> HostResult<()> {
    let name = parse_name(name)?;
    let list = values.strip_suffix(b"\0").unwrap_or(values);
    let parsed = if values.is_empty() { Vec::new() } else { list.split(|b| *b == 0).map(parse_value).collect::<HostResult<Vec<_>>>()? };
    headers.remove(&name);
    for value in parsed {
        headers.try_append(&name, value).map_err(|_| too_many())?;
    }
    Ok(())
}

/// Replaces a name's values by one.
pub fn insert(headers: &mut HeaderMap, name: &Str, value: &Str) -> HostResult<()> {
    headers.try_insert(parse_name(name)?, parse_value(value)?).map_err(|_| too_many())?;
    Ok(())
}

/// Adds a value.
pub fn append(headers: &mut HeaderMap, name: &Str, value: &Str) -> HostResult<()> {
    headers.try_append(parse_name(name)?, parse_value(value)?).map_err(|_| too_many())?;
    Ok(())
}

/// Removes a name with all its values; INVAL when there is none, as the SDKs expect.
pub fn remove(headers: &mut HeaderMap, name: &Str) -> HostResult<()> {
    match headers.try_entry(parse_name(name)?) {
        Ok(Entry::Occupied(entry)) => {
            entry.remove_entry_mult();
            Ok(())
        }
        Ok(Entry::Vacant(_)) | Err(_) => Err(HostError::inval("no such header")),
    }
}

/// A field name; INVAL when it is none.
pub fn parse_name(name: &[u8]) -> HostResult<HeaderName> {
    HeaderName::from_bytes(name).map_err(|_| HostError::inval("not a header name"))
}

/// A field value; INVAL when it is none.
pub fn parse_value(value: &[u8]) -> HostResult<HeaderValue> {
    HeaderValue::from_bytes(value).map_err(|_| HostError::inval("not a header value"))
}

fn too_many() -> HostError {
    HostError::Status(super::Status::LimitExceeded, "too many headers".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Status;

    fn status<T>(result: HostResult<T>) -> Status {
        match result {
            Ok(_) => Status::Ok,
            Err(HostError::Status(status, _)) => status,
            Err(HostError::Trap(reason)) => panic!("trap: {reason}"),
        }
    }

    #[test]
    fn values_come_and_go() {
        let mut headers = HeaderMap::new();
        let name = Str::from("X-A");
        assert_eq!(status(value(&headers, &name)), Status::Inval);
        assert_eq!(status(remove(&mut headers, &name)), Status::Inval);
        append(&mut headers, &name, &"1".into()).expect("appends");
        append(&mut headers, &name, &"2".into()).expect("appends");
        assert_eq!(headers.get_all("x-a").iter().count(), 2);
        set_values(&mut headers, &name, &"a\0b\0c\0".into()).expect("sets");
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        insert(&mut headers, &name, &"z".into()).expect("inserts");
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["z"]);
        set_values(&mut headers, &name, &"".into()).expect("sets");
        assert!(headers.is_empty());
        assert_eq!(status(insert(&mut headers, &"a b".into(), &"1".into())), Status::Inval);
        assert_eq!(status(insert(&mut headers, &"a".into(), &"1\r\nb: 2".into())), Status::Inval);
    }
}
