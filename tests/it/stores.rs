//! Config stores, secrets, access lists, geolocation, devices, shields, and how they follow their files.

use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::{Setup, Sidelight, guest};
use crate::languages;
use crate::mmdb::database;
use crate::origin::Origin;

const MANIFEST: &str = r#"
[local_server.config_stores.settings]
format = "inline-toml"
[local_server.config_stores.settings.contents]
colour = "teal"
empty = ""

[local_server.dictionaries.words]
format = "json"
file = "words.json"

[[local_server.secret_stores.vault]]
key = "token"
data = "hunter2"
[[local_server.secret_stores.vault]]
key = "env"
env = "A_SECRET_OF_THE_TEST"
[[local_server.secret_stores.vault]]
key = "file"
file = "secret.bin"

[local_server.acls]
blocked = "acl.json"

[local_server.geolocation]
format = "inline-toml"
[local_server.geolocation.addresses."192.0.2.0/24"]
city = "Testville"
country_code = "XX"
as_number = 64500
[local_server.geolocation.addresses."192.0.2.7"]
city = "Nearer"

[local_server.device_detection]
format = "inline-toml"
[local_server.device_detection.user_agents."Phone/1"]
device = { name = "iPhone", brand = "Apple", model = "iPhone4,1", is_mobile = true }
"#;

fn setup(language: &str) -> Setup {
    Setup::new(guest(language, "stores"))
        .manifest(MANIFEST)
        .file("words.json", r#"{"hello": "world", "ä": "ö"}"#)
        .file("secret.bin", "in a file\n")
        .file("acl.json", r#"{"entries":[{"prefix":"192.0.2.0/24","action":"BLOCK"},{"prefix":"192.0.2.128/25","action":"ALLOW"},{"prefix":"2001:db8::/32","action":"BLOCK"}]}"#)
        .env("A_SECRET_OF_THE_TEST", "in the environment")
}

fn ask(sidelight: &Sidelight, path: &str) -> (u16, String) {
    let answer = sidelight.get(path);
    (answer.status, answer.text())
}

fn found(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

languages!(
    fn what_the_manifest_has(language) {
        let sidelight = setup(language).start();
        assert_eq!(ask(&sidelight, "/config?store=settings&key=colour"), found("teal"));
        assert_eq!(ask(&sidelight, "/config?store=settings&key=empty"), found(""));
        assert_eq!(ask(&sidelight, "/config?store=settings&key=none").0, 404);
        assert_eq!(ask(&sidelight, "/config?store=words&key=hello"), found("world"), "one thing under two names");
        assert_eq!(ask(&sidelight, "/dictionary?store=words&key=%C3%A4"), found("ö"));
        assert_eq!(ask(&sidelight, "/config?store=other&key=a").0, 500);

        assert_eq!(ask(&sidelight, "/secret?store=vault&key=token"), found("hunter2"));
        assert_eq!(ask(&sidelight, "/secret?store=vault&key=env"), found("in the environment"));
        assert_eq!(ask(&sidelight, "/secret?store=vault&key=file"), found("in a file\n"));
        assert_eq!(ask(&sidelight, "/secret?store=vault&key=none").0, 404);
        assert_eq!(ask(&sidelight, "/secret?store=other&key=token").0, 500);

        assert_eq!(ask(&sidelight, "/acl?store=blocked&ip=192.0.2.1"), found("BLOCK 192.0.2.0/24"));
        assert_eq!(ask(&sidelight, "/acl?store=blocked&ip=192.0.2.200"), found("ALLOW 192.0.2.128/25"));
        assert_eq!(ask(&sidelight, "/acl?store=blocked&ip=2001:db8::1"), found("BLOCK 2001:0db8:0000:0000:0000:0000:0000:0000/32"));
        assert_eq!(ask(&sidelight, "/acl?store=blocked&ip=203.0.113.1").0, 404);
        assert_eq!(ask(&sidelight, "/acl?store=other&ip=203.0.113.1").0, 500);

        assert_eq!(ask(&sidelight, "/geo?ip=192.0.2.1"), found("Testville XX ? 64500"));
        assert_eq!(ask(&sidelight, "/geo?ip=192.0.2.7"), found("Nearer ? ? 0"));
        assert_eq!(ask(&sidelight, "/geo?ip=127.0.0.1"), found("San Francisco US USA 54113"));
        let nowhere = ask(&sidelight, "/geo?ip=203.0.113.1");
        // The Go SDK takes it for a place without a name.
        assert!(nowhere.0 >= 400 || nowhere.1.trim() == "0", "{nowhere:?}");

        let phone = ask(&sidelight, "/device?ua=Phone/1");
        assert!(phone.0 == 200 && phone.1.contains("Apple") && phone.1.contains("iPhone4,1") && phone.1.contains("true"), "{phone:?}");
        assert_eq!(ask(&sidelight, "/device?ua=Unheard-of").0, 404);
        let shield = ask(&sidelight, "/shield?store=iad-va-us");
        assert!(shield.1.starts_with("true"), "{shield:?}");
        for secret in ["hunter2", "in the environment", "in a file"] {
            assert!(!sidelight.log.text().contains(secret), "a secret is in the log");
        }
    }
);

#[test]
fn it_follows_its_files() {
    let sidelight = setup("rust").start();
    sidelight.write("words.json", r#"{"hello": "moon"}"#);
    sidelight.wait_until("the new word", |it| it.get("/dictionary?store=words&key=hello").text() == "moon");
    sidelight.write("acl.json", r#"{"entries":[]}"#);
    sidelight.wait_until("the new list", |it| it.get("/acl?store=blocked&ip=192.0.2.1").status == 404);
    sidelight.write("secret.bin", "renewed");
    sidelight.wait_until("the new secret", |it| it.get("/secret?store=vault&key=file").text() == "renewed");

    // What cannot be used changes nothing, and is told with its place.
    sidelight.write("words.json", "{\n\"hello\": 7}");
    let line = sidelight.log.wait_for(&["words.json:2:10: invalid type: integer `7`, expected a string"]);
    assert!(line.contains("config store `words`"), "{line}");
    assert_eq!(sidelight.get("/dictionary?store=words&key=hello").text(), "moon");
    std::fs::remove_file(sidelight.path("words.json")).expect("removes");
    sidelight.log.wait_for(&["words.json: No such file"]);
    assert_eq!(sidelight.get("/dictionary?store=words&key=hello").text(), "moon");
    sidelight.write("words.json", r#"{"hello": "again"}"#);
    sidelight.wait_until("the new word", |it| it.get("/dictionary?store=words&key=hello").text() == "again");
}

/// As Kubernetes mounts a Secret, and swaps it.
#[test]
fn a_mounted_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, token: &str| {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
        std::fs::write(folder.path().join(name).join("token"), token).expect("a file");
        symlink(name, folder.path().join("..tmp")).expect("a link");
        std::fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).expect("swaps");
    };
    put("..1", "first");
    symlink("..data/token", folder.path().join("token")).expect("a link");
    let manifest = format!("[sidelight.secret_stores.mounted]\ndirectory = \"{}\"\n", folder.path().display());
    let sidelight = Setup::new(guest("rust", "stores")).manifest(&manifest).start();
    assert_eq!(ask(&sidelight, "/secret?store=mounted&key=token"), found("first"));
    put("..2", "second");
    sidelight.wait_until("the new secret", |it| it.get("/secret?store=mounted&key=token").text() == "second");
    // A key that is new.
    std::fs::write(folder.path().join("..2/more"), "third").expect("a file");
    symlink("..data/more", folder.path().join("more")).expect("a link");
    sidelight.wait_until("the further secret", |it| it.get("/secret?store=mounted&key=more").text() == "third");
}

#[test]
fn lookups_are_limited_as_in_production() {
    let sidelight = setup("rust").start();
    assert_eq!(ask(&sidelight, "/configs?store=settings&key=colour&n=33"), found("ok"));
    sidelight.log.wait_for(&["more lookups of config store entries than production allows", "config_lookups=33"]);
    sidelight.wait_metric("sidelight_guest_config_lookups_over_production_total", 1.0);
    let sidelight = setup("rust").arg("--limits production --cpu-limit 5s").start();
    assert_eq!(ask(&sidelight, "/configs?store=settings&key=colour&n=32"), found("ok"));
    let (status, text) = ask(&sidelight, "/configs?store=settings&key=colour&n=33");
    assert_eq!((status, text.as_str()), (500, "TooManyLookups"));
}

#[test]
fn shields_that_are_elsewhere() {
    let origin = Origin::fixed("from the origin");
    let manifest = format!(
        "[local_server.shielding_sites]\nnear = \"Local\"\nfar = {{ encrypted = \"https://localhost:1\", unencrypted = \"{}\" }}\n",
        origin.url()
    );
    // Even where no dynamic backends may be: the operator has said where they are.
    let sidelight = Setup::new(guest("rust", "stores")).manifest(&manifest).arg("--dynamic-backends none").start();
    assert_eq!(sidelight.get("/shield?store=near").text(), "true Err(FastlyStatus::INVAL) FastlyStatus::INVAL");
    let far: String = sidelight.get("/shield?store=far").text();
    assert!(far.starts_with("false Ok(\"shield ") && !far.contains("Err"), "{far}");
    assert!(far.ends_with("from the origin"));
}

#[test]
fn what_cannot_be() {
    let fails = |manifest: &str, file: (&str, &str), parts: &[&str]| {
        let (status, text) = Setup::new(guest("rust", "stores")).manifest(manifest).file(file.0, file.1).fails();
        assert_eq!(status.code(), Some(3), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let store = |kind: &str| format!("[local_server.{kind}]\nformat = \"json\"\nfile = \"data.json\"\n");
    fails(&store("config_stores.a"), ("data.json", "{"), &["config store `a`: FOLDER/data.json:1:1: EOF"]);
    fails(&store("config_stores.a"), ("other.json", "{"), &["config store `a`: FOLDER/data.json: No such file"]);
    fails(&store("kv_stores.a"), ("data.json", r#"{"a": {"data": "x", "file": "y"}}"#), &["KV store `a`", "exactly one of"]);
    fails(&store("kv_stores.a"), ("data.json", r#"{"..": "x"}"#), &["KV store `a`", "the key `..` cannot be"]);
    fails(&store("secret_stores.a"), ("data.json", r#"{"a b": "x"}"#), &["secret store `a`", "`a b` is no name of a secret"]);
    fails(
        "[local_server.acls]\na = \"data.json\"\n",
        ("data.json", r#"{"entries":[{"prefix":"x","action":"ALLOW"}]}"#),
        &["access list `a`", "entry 1: `x` is no prefix"],
    );
    fails(
        "[[local_server.secret_stores.a]]\nkey = \"k\"\nenv = \"NOT_SET_ANYWHERE\"\n",
        ("x", ""),
        &["environment variable NOT_SET_ANYWHERE is not set"],
    );
    fails(
        "[sidelight.geolocation]\ncity = \"x.mmdb\"\n",
        ("x.mmdb", "no database"),
        &["geolocation: FOLDER/x.mmdb: this is no MaxMind database"],
    );
    fails("[sidelight]\nuser_agents = \"x.yaml\"\n", ("x.yaml", "a: 1"), &["device detection: FOLDER/x.yaml", "regexes.yaml"]);
    fails("[sidelight.kv_stores.a]\nkeep = \"embedded\"\n", ("x", ""), &["KV store `a`", "--data-dir"]);
    fails("[sidelight.kv_stores.a]\nkeep = \"redis\"\n", ("x", ""), &["KV store `a`", "--redis"]);
    fails("[sidelight.rate_limits]\nkeep = \"redis\"\n", ("x", ""), &["rate counters", "--redis"]);
    fails("[sidelight.logs.a]\nkind = \"file\"\n", ("x", ""), &["fastly.toml:4:8", "a file needs a path"]);
    fails("[sidelight.logs.a]\nkind = \"syslog\"\nurl = \"http://x\"\n", ("x", ""), &["is no syslog server"]);
    fails("[sidelight.logs.stdout]\nkind = \"stdout\"\n", ("x", ""), &["no name of a log endpoint"]);
}

/// What is wrong is said without the secrets that it is near to.
#[test]
fn errors_show_no_secret() {
    let secret = "[[local_server.secret_stores.x]]\nkey = \"k\"\n";
    for manifest in [
        format!("{secret}dat = \"hunter2\"\n"),
        format!("{secret}data = \"hunter2\n"),
        format!("{secret}data = [\"hunter2\"]\n"),
        "[local_server]\nsecret_stores.x = [{ key = \"k\", dat = \"hunter2\" }]\n".to_owned(),
        "[sidelight.logs.a]\nkind = \"http\"\nurl = \"ftp://u:hunter2@h\"\n".to_owned(),
        "[local_server.secret_stores]\nx = { file = \"data.json\", format = \"json\" }\n".to_owned(),
    ] {
        let (status, text) = Setup::new(guest("rust", "stores")).manifest(&manifest).file("data.json", "\"hunter2\"").fails();
        assert_eq!(status.code(), Some(3), "{text}");
        assert!(!text.contains("hunter2") && text.contains("FOLDER/"), "{text}");
    }
    for url in ["http://u:hunter2@h", "hunter2@127.0.0.1:1", "redis://u:hunter2@127.0.0.1:99999"] {
        let (status, text) =
            Setup::new(guest("rust", "stores")).arg(&format!("--redis {url}")).manifest("[sidelight.kv_stores.a]\n").fails();
        assert!(matches!(status.code(), Some(2 | 3)), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Rules like uap-core's.
const RULES: &str = r#"
user_agent_parsers:
  - regex: '(Browsy)/(\d+)\.(\d+)\.(\d+)'
os_parsers:
  - regex: '(iPhone OS) (\d+)_(\d+)'
    os_replacement: 'iOS'
device_parsers:
  - regex: '(iPhone)'
    device_replacement: 'iPhone'
    brand_replacement: 'Apple'
    model_replacement: 'iPhone'
"#;

#[test]
fn user_agents_by_rules() {
    let sidelight = setup("rust").manifest("[sidelight]\nuser_agents = \"rules.yaml\"\n").file("rules.yaml", RULES).start();
    let agent = "Browsy/7.1.2%20(iPhone%20OS%2017_1)%20Mobile%20iPhone";
    assert_eq!(ask(&sidelight, &format!("/device?ua={agent}")), found("Some(\"Apple\") Some(\"iPhone\") Some(\"Browsy\") Some(true)"));
    assert!(ask(&sidelight, "/device?ua=Phone/1").1.contains("iPhone4,1"), "the table goes first");
    assert_eq!(ask(&sidelight, &format!("/uap?ua={agent}")), found("Browsy|7|1|2"));
    assert_eq!(ask(&sidelight, "/uap?ua=unknown"), (501, "FastlyStatus::NONE".to_owned()));
    assert_eq!(ask(&sidelight, "/device?ua=unknown").0, 404);
    let sidelight = setup("rust").start();
    assert_eq!(ask(&sidelight, &format!("/uap?ua={agent}")), (501, "FastlyStatus::UNSUPPORTED".to_owned()));
}

#[test]
fn maxmind_databases() {
    let city = |name: &str| {
        json!({
            "city": { "names": { "en": name } }, "continent": { "code": "EU" },
            "country": { "iso_code": "DE", "names": { "en": "Germany" } }, "location": { "latitude": 52.5, "longitude": 13.4 },
            "postal": { "code": "10115" }, "subdivisions": [{ "iso_code": "BE" }],
        })
    };
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, kind: &str, records: &[(&str, serde_json::Value)]| {
        // As updaters do: written aside and moved.
        std::fs::write(folder.path().join("partial"), database(kind, records)).expect("writes");
        std::fs::rename(folder.path().join("partial"), folder.path().join(name)).expect("moves");
    };
    write("city.mmdb", "GeoLite2-City", &[("192.0.2.0/24", city("Berlin")), ("2001:db8::/32", city("Potsdam"))]);
    write(
        "asn.mmdb",
        "GeoLite2-ASN",
        &[("192.0.2.0/25", json!({ "autonomous_system_number": 64501, "autonomous_system_organization": "Test Net" }))],
    );
    write("anonymous.mmdb", "GeoIP2-Anonymous-IP", &[("192.0.2.1/32", json!({ "is_anonymous": true, "is_tor_exit_node": true }))]);
    let manifest = format!(
        "[local_server.geolocation]\nformat = \"inline-toml\"\n[local_server.geolocation.addresses.\"192.0.2.9\"]\ncity = \"Overruled\"\n\
         [sidelight.geolocation]\ncity = \"{0}/city.mmdb\"\nasn = \"{0}/asn.mmdb\"\nanonymous_ip = \"{0}/anonymous.mmdb\"\n",
        folder.path().display()
    );
    let sidelight = Setup::new(guest("rust", "stores")).manifest(&manifest).start();
    assert_eq!(ask(&sidelight, "/geo?ip=192.0.2.1"), found("Berlin DE DEU 64501"));
    assert_eq!(ask(&sidelight, "/geo?ip=192.0.2.200"), found("Berlin DE DEU 0"));
    assert_eq!(ask(&sidelight, "/geo?ip=2001:db8::1"), found("Potsdam DE DEU 0"));
    assert_eq!(ask(&sidelight, "/geo?ip=192.0.2.9"), found("Overruled ? ? 0"), "the manifest goes first");
    assert_eq!(ask(&sidelight, "/geo?ip=203.0.113.1").0, 404, "nobody knows, and that is said");
    write("city.mmdb", "GeoLite2-City", &[("192.0.2.0/24", city("Bonn"))]);
    sidelight.wait_until("the new database", |it| it.get("/geo?ip=192.0.2.1").text().starts_with("Bonn"));
    write("city.mmdb", "GeoLite2-ASN", &[]);
    sidelight.log.wait_for(&["this is a database of GeoLite2-ASN; one of City or Country or Enterprise is wanted"]);
    assert_eq!(ask(&sidelight, "/geo?ip=192.0.2.1"), found("Bonn DE DEU 64501"), "the last good one serves on");
}
