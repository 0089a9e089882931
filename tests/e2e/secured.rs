//! TLS, logins, tokens and least privilege.

mod http;
