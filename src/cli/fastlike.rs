//! fastlike's command line: Go's flags (`-flag value`, `-flag=value`, one dash or two), turned into a manifest and
//! settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::args::machine;
use crate::app::Exit;
use crate::app::load::Launch;
use crate::config::host::{Listen, Profile};
use crate::config::settings::Settings;
use crate::config::{ModuleSource, Secret};

/// Flags that take a value.
const VALUED: [&str; 26] = [
    "wasm",
    "backend",
    "b",
    "override-host",
    "bind",
    "v",
    "dictionary",
    "d",
    "config-store",
    "secret-store",
    "kv",
    "acl",
    "logger",
    "geo",
    "compliance-region",
    "fake-fastly-key",
    "profile",
    "profile-ui",
    "profile-auth",
    "profile-retain",
    "profile-backend-cap",
    "profile-async-grace",
    "profile-dir",
    "admin",
    "dynamic-backends",
    "cache-dir",
];

/// Flags that stand by themselves.
const SWITCHES: [&str; 2] = ["reload", "profile-insecure-ui"];

/// The name of the backend for all names that no other has.
const CATCH_ALL: &str = "default";

/// What such a command line asks for.
#[derive(Debug)]
pub struct Asked {
    /// To be served.
    pub launch: Launch,
    /// How much log.
    pub verbose: u8,
    /// Whether files are read again when they change.
    pub reload: bool,
    /// What has no effect here.
    pub notes: Vec<String>,
}

/// Whether the arguments are fastlike's: those have `-wasm`, which nobody else has.
pub fn is_meant(args: &[String]) -> bool {
    args.iter().any(|arg| matches!(arg.trim_start_matches('-').split('=').next(), Some("wasm")) && arg.starts_with('-'))
}

fn usage(message: impl Into<String>) -> Exit {
    Exit::Usage(message.into())
}

/// Name and value of every flag, in order.
fn flags(args: &[String]) -> Result<Vec<(String, String)>, Exit> {
    let mut found = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|flag| !flag.is_empty()) else {
            return Err(usage(format!("`{arg}` is no flag\n  hint: with -wasm, everything is a flag and its value")));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let value = match value {
            _ if !VALUED.contains(&name) && !SWITCHES.contains(&name) => {
                let near = crate::config::shape::nearest(name, VALUED.into_iter().chain(SWITCHES));
                let hint = near.map_or(String::new(), |near| format!("\n  hint: did you mean -{near}?"));
                return Err(usage(format!("there is no flag -{name}{hint}")));
            }
            Some(value) => value,
            None if SWITCHES.contains(&name) => "true".to_owned(),
            None => rest.next().cloned().ok_or_else(|| usage(format!("-{name} needs a value")))?,
        };
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// `NAME=REST`, or just `REST`. A URL's own `=` is none of a name's.
fn named(value: &str) -> (Option<&str>, &str) {
    match value.split_once('=') {
        Some((name, rest)) if !name.contains(['/', ':']) => (Some(name), rest),
        _ => (None, value),
    }
}

fn store<'v>(flag: &str, value: &'v str) -> Result<(&'v str, &'v str), Exit> {
    match named(value) {
        (Some(name), file) if !name.is_empty() && !file.is_empty() => Ok((name, file)),
        _ => Err(usage(format!("-{flag} {value}: expected NAME=FILE"))),
    }
}

/// A backend by `[NAME=]ADDR[@N]`.
fn backend(value: &str) -> Result<(String, Json, Json), Exit> {
    let (name, rest) = named(value);
    let (address, share) = match rest.rsplit_once('@') {
        Some((address, share)) => {
            let number = share.parse::<u8>().ok().filter(|number| *number <= 100);
            let bad = || {
                usage(format!("-backend {value}: `{share}` is no share; it is 0 to 100, the percentage of requests that reach the backend"))
            };
            (address, Some(number.ok_or_else(bad)?))
        }
        None => (rest, None),
    };
    if address.is_empty() {
        return Err(usage(format!("-backend {value}: expected [NAME=]HOST:PORT[@SHARE], or a URL")));
    }
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let mut settings = json!({ "url": url });
    let mut more = json!({});
    if let Some(share) = share {
        settings["health"] = if share == 0 { "unhealthy".into() } else { "healthy".into() };
        more["availability"] = share.into();
    }
    Ok((name.unwrap_or(CATCH_ALL).to_owned(), settings, more))
}

/// Reads the arguments.
pub fn parse(args: &[String]) -> Result<Asked, Exit> {
    let mut local: Map<String, Json> = Map::new();
    let mut sidelight: Map<String, Json> = Map::new();
    let (mut backends, mut more): (BTreeMap<String, Json>, BTreeMap<String, Json>) = (BTreeMap::new(), BTreeMap::new());
    let mut hosts: Vec<(Option<String>, String)> = Vec::new();
    let mut stores: BTreeMap<&str, Map<String, Json>> = BTreeMap::new();
    let mut keys: Vec<Json> = Vec::new();
    let (mut program, mut verbose, mut reload, mut notes) = (None, 0, false, Vec::new());
    let mut settings = Settings { listen: Some(vec![listen("localhost:8000")?]), ..Settings::default() };
    for (flag, value) in flags(args)? {
        match flag.as_str() {
            "wasm" => program = Some(ModuleSource::parse(&value, Path::new("")).map_err(usage)?),
            "backend" | "b" => {
                let (name, backend, extra) = backend(&value)?;
                if name == CATCH_ALL {
                    sidelight.insert("catch_all_backend".to_owned(), CATCH_ALL.into());
                }
                more.insert(name.clone(), extra);
                if backends.insert(name.clone(), backend).is_some() {
                    return Err(usage(format!("-backend {value}: there is one of that name already")));
                }
            }
            "override-host" => {
                let (name, host) = named(&value);
                hosts.push((name.map(str::to_owned), host.to_owned()));
            }
            "bind" => settings.listen = Some(vec![listen(&value)?]),
            "admin" => settings.admin = Some(listen(&value)?),
            // Its profiler's page is the inspector here.
            "profile-ui" => settings.admin = Some(listen(&value)?),
            "profile-auth" => settings.admin_token = Some(Secret::new(value.into_bytes())),
            "profile-insecure-ui" => settings.admin_open = Some(value != "false"),
            "profile" => match value.as_str() {
                "off" => settings.inspect = Some(false),
                "trace" | "deep" => settings.inspect = Some(true),
                "native" | "combined" => {
                    settings.inspect = Some(true);
                    settings.profile = Some(Profile::JitDump);
                }
                _ => return Err(usage(format!("-profile {value}: expected off, trace, native, combined or deep"))),
            },
            "dynamic-backends" => settings.dynamic_targets = Some(value.parse().map_err(usage)?),
            "cache-dir" => settings.cache_dir = Some(Some(PathBuf::from(value))),
            "reload" => reload = value != "false",
            "v" => {
                verbose = value.parse().ok().filter(|level| *level <= 2).ok_or_else(|| usage(format!("-v {value}: expected 0, 1 or 2")))?
            }
            "dictionary" | "d" | "config-store" => {
                let (name, file) = store(&flag, &value)?;
                stores.entry("config_stores").or_default().insert(name.to_owned(), json!({ "format": "json", "file": file }));
            }
            "secret-store" => {
                let (name, file) = store(&flag, &value)?;
                stores.entry("secret_stores").or_default().insert(name.to_owned(), json!({ "format": "json", "file": file }));
            }
            "kv" => {
                let (name, file) = value.split_once('=').unwrap_or((&value, ""));
                let content = if file.is_empty() { json!([]) } else { json!({ "format": "json", "file": file }) };
                stores.entry("kv_stores").or_default().insert(name.to_owned(), content);
            }
            "acl" => {
                let (name, file) = store(&flag, &value)?;
                stores.entry("acls").or_default().insert(name.to_owned(), file.into());
            }
            "geo" => drop(local.insert("geolocation".to_owned(), json!({ "format": "json", "file": value }))),
            "compliance-region" => drop(sidelight.insert("compliance_region".to_owned(), value.into())),
            "fake-fastly-key" => keys.push(value.into()),
            "logger" => notes.push(format!("-logger {value}: every log endpoint goes to the process log")),
            other => notes.push(format!("-{other} has no effect here")),
        }
    }
    let program = program.ok_or_else(|| usage("-wasm FILE is missing"))?;
    for (name, host) in hosts {
        let name = name.unwrap_or_else(|| CATCH_ALL.to_owned());
        let backend = backends.get_mut(&name).ok_or_else(|| usage(format!("-override-host {host}: there is no backend `{name}`")))?;
        backend["override_host"] = host.into();
    }
    local.insert("backends".to_owned(), json!(backends));
    local.insert("fake_valid_fastly_keys".to_owned(), keys.into());
    local.extend(stores.into_iter().map(|(kind, stores)| (kind.to_owned(), stores.into())));
    sidelight.insert("backends".to_owned(), json!(more));
    let manifest = json!({ "local_server": local, "sidelight": sidelight });
    let launch = Launch { settings, manifest: Some(manifest.to_string()), program: Some(program), ..machine() };
    Ok(Asked { launch, verbose, reload, notes })
}

/// Go's way: no host is every host.
fn listen(text: &str) -> Result<Listen, Exit> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|error| usage(format!("-bind {text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn manifest(line: &str) -> Json {
        let asked = parse(&args(line)).expect("parses");
        serde_json::from_str(&asked.launch.manifest.expect("one")).expect("JSON")
    }

    #[test]
    fn whose_they_are() {
        assert!(is_meant(&args("-wasm app.wasm")) && is_meant(&args("--wasm=app.wasm -backend x")));
        assert!(!is_meant(&args("-v --wasm-exceptions app.wasm")) && !is_meant(&args("serve wasm")));
    }

    #[test]
    fn backends() {
        let got = manifest("-wasm a -backend localhost:8000 -b api=https://api.test/x?y=z@50 --backend=down=10.0.0.1:80@0");
        assert_eq!(got["local_server"]["backends"]["default"], json!({ "url": "http://localhost:8000" }));
        assert_eq!(got["local_server"]["backends"]["api"], json!({ "url": "https://api.test/x?y=z", "health": "healthy" }));
        assert_eq!(got["local_server"]["backends"]["down"]["health"], "unhealthy");
        assert_eq!(
            (&got["sidelight"]["backends"]["api"]["availability"], &got["sidelight"]["catch_all_backend"]),
            (&50.into(), &"default".into())
        );
    }

    #[test]
    fn stores_and_the_rest() {
        let got = manifest(
            "-wasm a -backend o=h:1 -override-host o=www.test -d d=d.json -kv k -kv l=l.json -acl b=b.json -geo g.json -fake-fastly-key x",
        );
        let local = &got["local_server"];
        assert_eq!(local["backends"]["o"]["override_host"], "www.test");
        assert_eq!(
            (&local["config_stores"]["d"]["file"], &local["kv_stores"]["k"], &local["acls"]["b"]),
            (&"d.json".into(), &json!([]), &"b.json".into())
        );
        assert_eq!((&local["geolocation"]["file"], &local["fake_valid_fastly_keys"]), (&"g.json".into(), &json!(["x"])));
        let asked = parse(&args("-wasm a -bind :9000 -reload -v 2 -profile trace")).expect("parses");
        assert_eq!(
            (asked.launch.settings.listen, asked.reload, asked.verbose),
            (Some(vec![listen("0.0.0.0:9000").expect("one")]), true, 2)
        );
        assert!(asked.notes.is_empty() && asked.launch.settings.inspect == Some(true));
        let settings =
            parse(&args("-wasm a -profile native -profile-ui localhost:6060 -profile-auth t -profile-retain 9")).expect("parses");
        assert_eq!(settings.notes, ["-profile-retain has no effect here"]);
        let settings = settings.launch.settings;
        assert_eq!((settings.admin, settings.profile), (Some("127.0.0.1:6060".parse().expect("an address")), Some(Profile::JitDump)));
        assert!(settings.admin_token.is_some_and(|token| token.is(b"t")));
        assert!(parse(&args("-wasm a -profile most")).is_err());
    }

    #[test]
    fn what_cannot_be() {
        for (line, told) in [
            ("-backend x", "-wasm FILE is missing"),
            ("-wasm a -bakend x", "did you mean -backend?"),
            ("-wasm a -backend x@101", "is no share"),
            ("-wasm a -override-host o=x", "there is no backend `o`"),
            ("-wasm a b", "`b` is no flag"),
            ("-wasm a -kv", "-kv needs a value"),
            ("-wasm a -v 3", "expected 0, 1 or 2"),
            ("-wasm a -dictionary x", "expected NAME=FILE"),
        ] {
            let error = parse(&args(line)).expect_err("is bad").to_string();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
