//! A database's address: what it says of server, user and TLS, and nothing that it does not say.

use std::str::FromStr;

use reqwest::Url;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// TLS as an address may ask for it. sqlx takes `allow` for `disable`.
const MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];
const MODE: &[&str] = &["sslmode", "ssl-mode"];
const CA: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca"];
const CERT: &[&str] = &["sslcert", "ssl-cert"];
const KEY: &[&str] = &["sslkey", "ssl-key"];
/// What sqlx knows beside those.
const OTHERS: [&str; 8] =
    ["host", "hostaddr", "port", "dbname", "user", "password", "application_name", "statement-cache-capacity"];

/// What an address says.
pub(super) struct Address {
    pub(super) options: PgConnectOptions,
    pub(super) files: CertificateFiles,
    pub(super) has_password: bool,
    /// Names of parameters that nobody knows.
    pub(super) ignored: Vec<String>,
}

/// The files that an address names, or what they would hold, in PEM.
#[derive(Default)]
pub(super) struct CertificateFiles {
    pub(super) ca: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
}

impl Address {
    /// Reads it. Behind a transaction pooler it may say nothing of a session.
    ///
    /// # Errors
    /// Everything that is wrong, a sentence each without a value that may be secret.
    pub(super) fn parse(text: &str, pooler: bool) -> Result<Self, Vec<String>> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(vec!["it must be an address such as postgres://user@127.0.0.1:5432/database".to_owned()]);
        }
        let mut url = Url::parse(text).map_err(|error| vec![unread(&error)])?;
        let (known, unknown): (Vec<_>, Vec<_>) =
            url.query_pairs().into_owned().partition(|(name, _): &(String, String)| is_known(name));
        if !unknown.is_empty() {
            // sqlx would log their values.
            url.query_pairs_mut().clear().extend_pairs(&known);
        }
        // The last one counts.
        let says =
            |names: &[&str]| known.iter().rev().find(|(name, _)| names.contains(&&**name)).map(|(_, value)| value);
        let files = CertificateFiles { ca: says(CA).cloned(), cert: says(CERT).cloned(), key: says(KEY).cloned() };
        let mut problems = Vec::new();
        if let Some(mode) = says(MODE).filter(|mode| !MODES.contains(&&*mode.to_ascii_lowercase())) {
            problems.push(format!("sslmode is `{mode}`: write one of {}", MODES.join(", ")));
        }
        if files.cert.is_some() != files.key.is_some() {
            problems.push("sslcert and sslkey go together: name both".to_owned());
        }
        if pooler && known.iter().any(|(name, _)| is_session_option(name)) {
            problems
                .push("its options are a session's, and a transaction pooler keeps none: leave them out".to_owned());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut options = PgConnectOptions::from_str(url.as_str()).map_err(|error| vec![unread(&error)])?;
        // sqlx fills in from `PGSSLMODE` and its like what the address leaves out, and those are set for other programs.
        match options.get_ssl_mode() {
            _ if says(MODE).is_none() => options = options.ssl_mode(PgSslMode::Prefer),
            // As everybody else reads it: who names an authority wants the certificate verified.
            PgSslMode::Require if files.ca.is_some() => options = options.ssl_mode(PgSslMode::VerifyCa),
            _ => {}
        }
        if says(&["port"]).is_none() {
            options = options.port(url.port().unwrap_or(5432));
        }
        let names_host = says(&["host", "hostaddr"]).is_some();
        match url.host_str().filter(|host| !host.is_empty()) {
            // A socket's folder, its slashes escaped, or an address in brackets, where sqlx looks for a host.
            Some(host) if !names_host && !host.contains('%') => {
                options = options.host(host.trim_start_matches('[').trim_end_matches(']'));
            }
            None if !names_host => options = options.host("localhost"),
            _ => {}
        }
        let has_password = url.password().is_some() || says(&["password"]).is_some();
        Ok(Self { options, files, has_password, ignored: unknown.into_iter().map(|(name, _)| name).collect() })
    }
}

fn is_known(name: &str) -> bool {
    [MODE, CA, CERT, KEY, &OTHERS].iter().any(|names| names.contains(&name)) || is_session_option(name)
}

fn is_session_option(name: &str) -> bool {
    name == "options" || name.starts_with("options[")
}

fn unread(why: &dyn std::fmt::Display) -> String {
    format!("it cannot be read: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Address {
        Address::parse(url, false).unwrap_or_else(|problems| panic!("{url}: {problems:?}"))
    }

    fn problems(url: &str, pooler: bool) -> String {
        Address::parse(url, pooler).err().unwrap_or_default().join("; ")
    }

    /// Red when an IPv6 address keeps its brackets, which no resolver knows, or host, port or TLS come from what is set for other
    /// programs where the address does not say them.
    #[test]
    fn an_address_says_all_that_counts() {
        if std::env::var_os("PGSSLMODE").is_none() {
            // Itself once more, where that is set.
            let set =
                [("PGSSLMODE", "verify-full"), ("PGPORT", "1"), ("PGHOST", "elsewhere"), ("PGHOSTADDR", "10.0.0.1")];
            let mut own = std::process::Command::new(std::env::current_exe().expect("this test"));
            own.args(["--exact", "postgres::login::address::tests::an_address_says_all_that_counts"]).envs(set);
            let output = own.output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        let of = |url: &str| {
            let options = parsed(url).options;
            (options.get_host().to_owned(), options.get_port(), format!("{:?}", options.get_ssl_mode()))
        };
        let plain = |host: &str, port: u16, mode: &str| (host.to_owned(), port, mode.to_owned());
        assert_eq!(of("postgres://me:pw@[::1]:5433/shop"), plain("::1", 5433, "Prefer"));
        assert_eq!(of("postgres://me@db/shop?sslmode=require"), plain("db", 5432, "Require"));
        assert_eq!(of("postgres://me@db:7/shop?ssl-mode=disable"), plain("db", 7, "Disable"));
        assert_eq!(of("postgres:///shop"), plain("localhost", 5432, "Prefer"));
        assert!(problems("postgres//x", false).contains("must be an address"));
    }

    /// Red when `require` with an authority believes every certificate, a mode that sqlx takes for another passes, one of a pair
    /// does, or a pooler is asked for a session's options.
    #[test]
    fn tls_is_what_the_address_says() {
        let mode = |url: &str| format!("{:?}", parsed(url).options.get_ssl_mode());
        assert_eq!(mode("postgres://me@db/shop?sslmode=require&sslrootcert=/ca"), "VerifyCa");
        assert_eq!(mode("postgres://me@db/shop?sslmode=verify-full&sslrootcert=/ca"), "VerifyFull");
        for (wrong, what) in [
            ("sslmode=allow", "sslmode is `allow`: write one of disable, prefer, require, verify-ca, verify-full"),
            ("sslmode=always", "sslmode is `always`"),
            ("sslcert=/c", "sslcert and sslkey go together"),
            ("sslkey=/k", "sslcert and sslkey go together"),
        ] {
            let why = problems(&format!("postgres://me@db/shop?{wrong}"), false);
            assert!(why.contains(what), "{wrong}: {why}");
        }
        let files = parsed("postgres://me@db/shop?sslrootcert=/a%20b/%C3%BC%2Bca.pem&sslcert=/c&sslkey=/k").files;
        assert_eq!(files.ca.as_deref(), Some("/a b/ü+ca.pem"));
        let session = "postgres://me@db/shop?options[geqo]=off";
        assert_eq!(problems(session, false), "");
        assert!(problems(session, true).contains("a transaction pooler keeps none"));
    }

    /// Red when what sqlx does not know reaches it: it logs the value.
    #[test]
    fn what_nobody_knows_is_named_without_its_value() {
        let address = parsed("postgres://me@db/shop?sslpassword=hunter2&sslmode=disable");
        assert_eq!(address.ignored, ["sslpassword"]);
        assert_eq!(format!("{:?}", address.options.get_ssl_mode()), "Disable");
        assert!(!format!("{:?}", address.options).contains("hunter2"));
    }
}
