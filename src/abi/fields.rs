//! Header fields as guests read and edit them, shared by requests and responses.

use std::sync::Arc;

use ::http::header::{Entry, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::status::{HostError, HostResult};
use super::values::{Buf, Paged, Str};
use crate::http::message::MAX_HEAD;
use crate::sandbox::Account;

/// Fields up to this many, and up to so many bytes each, are not counted.
const FEW: usize = 32;
const SHORT: usize = 256;

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
pub fn set_values(headers: &mut HeaderMap, account: &Arc<Account>, name: &Str, values: &Str) -> HostResult<()> {
    let name = parse_name(name)?;
    fits(headers, &name, values.len(), true)?;
    let list = values.strip_suffix(b"\0").unwrap_or(values);
    let mut parsed = Vec::new();
    if !values.is_empty() {
        for value in list.split(|b| *b == 0) {
            parsed.push(kept(account, &name, value, headers.len() + parsed.len())?);
        }
    }
    headers.remove(&name);
    for value in parsed {
        headers.try_append(&name, value).map_err(|_| too_many())?;
    }
    Ok(())
}

/// Replaces a name's values by one.
pub fn insert(headers: &mut HeaderMap, account: &Arc<Account>, name: &Str, value: &Str) -> HostResult<()> {
    let name = parse_name(name)?;
    fits(headers, &name, value.len(), true)?;
    let value = kept(account, &name, value, headers.len())?;
    headers.try_insert(name, value).map_err(|_| too_many())?;
    Ok(())
}

/// Adds a value.
pub fn append(headers: &mut HeaderMap, account: &Arc<Account>, name: &Str, value: &Str) -> HostResult<()> {
    let name = parse_name(name)?;
    fits(headers, &name, value.len(), false)?;
    let value = kept(account, &name, value, headers.len())?;
    headers.try_append(name, value).map_err(|_| too_many())?;
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

/// A field value on its guest's account, beside `others`; INVAL when it is none.
pub fn kept(account: &Arc<Account>, name: &HeaderName, value: &[u8], others: usize) -> HostResult<HeaderValue> {
    let about = name.as_str().len();
    if others < FEW && about + value.len() <= SHORT {
        return parse_value(value);
    }
    let value = account.keep_with(Bytes::copy_from_slice(value), about)?;
    HeaderValue::from_maybe_shared(value).map_err(|_| HostError::inval("not a header value"))
}

/// Whether `more` bytes of values of `name` have room in a head, beside its other values or `instead` of them.
fn fits(headers: &HeaderMap, name: &HeaderName, more: usize, instead: bool) -> HostResult<()> {
    let more = name.as_str().len() + more;
    if headers.len() < FEW && more <= SHORT {
        return Ok(());
    }
    let others = headers.iter().filter(|(other, _)| !(instead && *other == name));
    let size: usize = others.map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size + more > MAX_HEAD {
        let text = format!("fields of more than {} KiB", MAX_HEAD >> 10);
        return Err(HostError::Status(super::Status::LimitExceeded, text.into()));
    }
    Ok(())
}

fn too_many() -> HostError {
    HostError::Status(super::Status::LimitExceeded, "too many headers".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Status;
    use crate::services::memory::HostMemory;

    fn status<T>(result: HostResult<T>) -> Status {
        match result {
            Ok(_) => Status::Ok,
            Err(HostError::Status(status, _)) => status,
            Err(HostError::Trap(reason)) => panic!("trap: {reason}"),
        }
    }

    fn account() -> Arc<Account> {
        Account::new(Arc::new(HostMemory::new(None)), Arc::default(), Arc::default())
    }

    #[test]
    fn heads_have_a_bound_and_count() {
        let (mut headers, account) = (HeaderMap::new(), account());
        let long = "x".repeat(60_000);
        for name in ["a", "b", "c", "d"] {
            append(&mut headers, &account, &name.into(), &long.as_str().into()).expect("room");
        }
        assert!((240_000..241_000).contains(&account.held()), "{}", account.held());
        assert_eq!(status(append(&mut headers, &account, &"a".into(), &long.as_str().into())), Status::LimitExceeded);
        insert(&mut headers, &account, &"a".into(), &long.as_str().into()).expect("in place of another");
        assert!((240_000..241_000).contains(&account.held()), "{}", account.held());
        headers.remove("a");
        assert!(account.held() < 181_000);
        let many: String = (0..5_000).map(|_| "x\0").collect();
        set_values(&mut headers, &account, &"e".into(), &many.as_str().into()).expect("room");
        assert!(account.held() > 5_000 * 100, "{}", account.held());
        headers.clear();
        assert_eq!(account.held(), 0);
    }

    #[test]
    fn values_come_and_go() {
        let (mut headers, account) = (HeaderMap::new(), account());
        let name = Str::from("X-A");
        assert_eq!(status(value(&headers, &name)), Status::Inval);
        assert_eq!(status(remove(&mut headers, &name)), Status::Inval);
        append(&mut headers, &account, &name, &"1".into()).expect("appends");
        append(&mut headers, &account, &name, &"2".into()).expect("appends");
        assert_eq!(headers.get_all("x-a").iter().count(), 2);
        set_values(&mut headers, &account, &name, &"a\0b\0c\0".into()).expect("sets");
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        insert(&mut headers, &account, &name, &"z".into()).expect("inserts");
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["z"]);
        set_values(&mut headers, &account, &name, &"".into()).expect("sets");
        assert!(headers.is_empty());
        assert_eq!(status(insert(&mut headers, &account, &"a b".into(), &"1".into())), Status::Inval);
        assert_eq!(status(insert(&mut headers, &account, &"a".into(), &"1\r\nb: 2".into())), Status::Inval);
    }
}
