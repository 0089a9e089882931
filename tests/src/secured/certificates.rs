//! Certificates for tests: authorities and what they sign, as PEM files.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// Somebody who signs certificates; whoever trusts [`file`](Self::file) trusts them.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    file: PathBuf,
}

/// A certificate and its key, in PKCS#8, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The file with the certificate.
    pub cert: PathBuf,
    /// The file with its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority of this name, whose files lie in this folder: its own is `<name>.pem`.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn new(folder: &Path, name: &str) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("signed");
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, issuer.pem()).expect("a file");
        Self { issuer, folder: folder.to_owned(), file }
    }

    /// Its own certificate.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A server's certificate for these names and addresses, in files called `file`.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn server(&self, file: &str, names: &[&str]) -> Certificate {
        self.sign(file, server_params(file, names))
    }

    /// A server's certificate that has expired.
    ///
    /// # Panics
    /// As [`server`](Self::server).
    pub fn expired_server(&self, file: &str, names: &[&str]) -> Certificate {
        self.sign(file, expired(server_params(file, names)))
    }

    /// A client's certificate that names this user, in files called `file`; each call makes another one.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn client(&self, file: &str, user: &str) -> Certificate {
        self.sign(file, client_params(user))
    }

    /// A client's certificate that has expired.
    ///
    /// # Panics
    /// As [`client`](Self::client).
    pub fn expired_client(&self, file: &str, user: &str) -> Certificate {
        self.sign(file, expired(client_params(user)))
    }

    fn sign(&self, file: &str, params: CertificateParams) -> Certificate {
        let key = key();
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        let [cert_file, key_file] = ["pem", "key"].map(|kind| self.folder.join(format!("{file}.{kind}")));
        std::fs::write(&cert_file, signed.pem()).expect("a file");
        std::fs::write(&key_file, key.serialize_pem()).expect("a file");
        Certificate { cert: cert_file, key: key_file }
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("valid names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn server_params(common_name: &str, names: &[&str]) -> CertificateParams {
    let mut params = named(common_name, names);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn client_params(user: &str) -> CertificateParams {
    let mut params = named(user, &[]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    params
}
