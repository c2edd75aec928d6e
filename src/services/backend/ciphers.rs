//! Cipher suites by the names OpenSSL gives them, which is how the ABI speaks of them.

use rustls::CipherSuite;

/// Suites up to TLS 1.2 that this host has. The list does not apply to TLS 1.3.
const NAMES: [(CipherSuite, &str); 6] = [
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
];

/// OpenSSL's name of a suite. Those of TLS 1.3 have the registry's.
pub fn name(suite: CipherSuite) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == suite).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| format!("{suite:?}").replacen("TLS13_", "TLS_", 1))
}

/// Words of OpenSSL's cipher lists that all of ours belong to.
const GROUPS: [&str; 6] = ["ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "TLSV1.2"];

/// Whether an OpenSSL cipher list has a suite. `!NAME` and `-NAME` take one out; orderings (`+NAME`,
/// `@STRENGTH`) do not matter here.
pub fn allows(list: &str, suite: CipherSuite) -> bool {
    let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == suite) else { return false };
    let mut allowed = false;
    for word in list.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        match word.strip_prefix(['!', '-']) {
            Some(rest) if matches(rest, name) => return false,
            Some(_) => {}
            None => allowed |= matches(word, name),
        }
    }
    allowed
}

/// A word may be several, all of which must fit, joined by `+`.
fn matches(word: &str, name: &str) -> bool {
    let fits = |part: &str| {
        GROUPS.iter().any(|group| part.eq_ignore_ascii_case(group))
            || part.eq_ignore_ascii_case(name)
            || name.split('-').any(|piece| piece.eq_ignore_ascii_case(part))
            || (part.eq_ignore_ascii_case("AESGCM") && name.contains("GCM"))
            || (part.eq_ignore_ascii_case("aRSA") && name.contains("-RSA-"))
            || (part.eq_ignore_ascii_case("aECDSA") && name.contains("-ECDSA-"))
    };
    !word.starts_with(['+', '@']) && word.split('+').all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(name(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256), "ECDHE-RSA-AES128-GCM-SHA256");
        assert_eq!(name(CipherSuite::TLS13_AES_128_GCM_SHA256), "TLS_AES_128_GCM_SHA256");
        assert_eq!(name(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256), "TLS_CHACHA20_POLY1305_SHA256");
    }

    #[test]
    fn lists() {
        let gcm = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
        let chacha = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
        for (list, has_gcm, has_chacha) in [
            ("ECDHE-RSA-AES128-GCM-SHA256", true, false),
            ("AES256-SHA:ecdhe-rsa-aes128-gcm-sha256", true, false),
            ("DHE-RSA-AES128-GCM-SHA256", false, false),
            ("HIGH:!CHACHA20", true, false),
            ("ECDHE+AESGCM:ECDHE+CHACHA20", true, true),
            ("ALL:!aRSA", false, true),
            ("", false, false),
        ] {
            assert_eq!((allows(list, gcm), allows(list, chacha)), (has_gcm, has_chacha), "{list}");
        }
        assert!(!allows("ALL", CipherSuite::TLS13_AES_128_GCM_SHA256));
    }
}
