//! Why a server gave no connection, and whether only a person can mend it.

use sqlx::{error::DatabaseError, postgres::PgConnectOptions};

use crate::{
    postgres::error::PostgresError,
    security::tls::handshake::{self, tls_error},
};

/// What sqlx says of a server that has no TLS.
const NO_TLS: &str = "server does not support TLS";

/// Which server it is, for people.
pub(super) fn server(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => format!("postgres at {}", socket.display()),
        None => format!("postgres {}:{}", options.get_host(), options.get_port()),
    }
}

/// Whether the server does not let us in, or we do not trust it.
pub(super) fn is_denial(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => is_of_login(error.as_ref()),
        // Before anything is encrypted: it has no TLS, or its name can be in no certificate.
        sqlx::Error::Tls(_) => true,
        error => tls_error(error).is_some_and(handshake::is_denial),
    }
}

/// Why there is no connection with these options, in a sentence that names the server.
pub(super) fn explain(error: sqlx::Error, options: &PgConnectOptions) -> PostgresError {
    let is_denial = is_denial(&error);
    let why = match &error {
        sqlx::Error::Database(error) => of_server(error.as_ref(), options.get_username()),
        sqlx::Error::Tls(why) if why.to_string() == NO_TLS => {
            "it does not speak TLS: switch ssl on there, or say sslmode=disable in the url".to_owned()
        }
        error => match (tls_error(error), error) {
            (Some(tls), _) => of_tls(&handshake::problem(tls, options.get_host())),
            (None, sqlx::Error::Io(io)) => format!("it cannot be reached: {io}"),
            (None, other) => other.to_string(),
        },
    };
    let why = format!("{}: {why}", server(options));
    if is_denial { PostgresError::Credentials(why) } else { PostgresError::Outage(why) }
}

/// By SQLSTATE: class 28 is who we are and what shows it. PgBouncer has one code for everything.
fn is_of_login(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code.starts_with("28")) || error.message().ends_with("authentication failed")
}

fn of_server(error: &dyn DatabaseError, user: &str) -> String {
    let (message, code) = (error.message(), error.code().unwrap_or_default());
    let remedy = match &*code {
        _ if message.contains("valid client certificate") => ": set sslcert and sslkey in the url",
        _ if message.contains("no encryption") => ": say sslmode=verify-full in the url, or add an entry there",
        _ if message.contains("unsupported startup parameter") => ": set postgres.pooler = true",
        "53300" => "; lower max_connections of the sinks or raise the server's",
        _ => "",
    };
    match is_of_login(error) {
        true if message.ends_with("authentication failed") => format!("{message} for user \"{user}\""),
        true => format!("{message}{remedy}"),
        false => format!("{message} ({code}){remedy}"),
    }
}

/// The same in the words of a database's address.
fn of_tls(problem: &str) -> String {
    problem.replace("set ca", "set sslrootcert").replace("cert and key", "sslcert and sslkey")
}
