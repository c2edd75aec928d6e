//! Texts of manifests and host files: a configuration, or errors whose places are in the text.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sidelight::config::Config;
use sidelight::config::diagnostics::Sources;
use sidelight::config::document::Node;
use sidelight::config::host_file::{self, Host};

fuzz_target!(|text: &str| {
    // Files that it names are looked for where there are none.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    for name in ["/nowhere/fastly.toml", "/nowhere/fastly.json"] {
        if let Err(error) = Config::from_manifest(text, Path::new(name)) {
            assert!(!error.to_string().is_empty());
        }
    }
    let mut sources = Sources::default();
    let base = sources.add(Path::new("/nowhere/sidelight.toml"), text);
    if let Ok(document) = Node::parse(text, Path::new("/nowhere/sidelight.toml"), base) {
        let _ = host_file::is_host_file(&document);
        drop(Host::decide(&document, &sources));
    }
});
