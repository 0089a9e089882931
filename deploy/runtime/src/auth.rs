//! Who may ask this process, and to whom it shows who it is: tokens, certificates, hosts.
//!
//! It never knows what is asked, nor how. Everything that comes of files is read anew when they change.

mod common_name;
mod peers;
mod reloaded;
mod server_tls;
mod tokens;

pub(crate) use self::{
    common_name::common_name,
    peers::{Peers, pattern_problems},
    reloaded::Reloaded,
    server_tls::ServerTlsConfig,
    tokens::Tokens,
};
