//! Authorities and server certificates, made for one test.

use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{
        X509, X509Builder, X509Name,
        extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName},
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

const DAY_SECONDS: i64 = 86_400;

/// A certificate authority with its own key.
pub struct Authority {
    name: String,
    key: PKey<Private>,
    certificate: X509,
}

/// The PEM files of a server's certificate.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Key and certificate in one file, as Kafka's PEM keystore wants it.
    pub keystore: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Now,
    Expired,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = new_key();
        let subject = common_name(name);
        let mut builder = builder(Validity::Now, &subject, &subject, &key);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Authority { name: name.to_owned(), certificate: builder.build(), key }
    }

    /// Writes the authority's certificate, for `tls_ca_file`.
    pub fn write(&self, directory: &Path) -> PathBuf {
        let path = directory.join(format!("{}.pem", self.name));
        fs::write(&path, self.certificate.to_pem().unwrap()).unwrap();
        path
    }

    /// Issues a certificate for `host`, a name or an address.
    pub fn issue(&self, directory: &Path, host: &str, validity: Validity) -> ServerCertificate {
        let key = new_key();
        let mut builder = builder(validity, &common_name(host), self.certificate.subject_name(), &key);
        let mut names = SubjectAlternativeName::new();
        if host.parse::<std::net::IpAddr>().is_ok() {
            names.ip(host)
        } else {
            names.dns(host)
        };
        let names = names.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.append_extension(ExtendedKeyUsage::new().server_auth().build().unwrap()).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();

        let state = if validity == Validity::Expired { "-expired" } else { "" };
        let path = |end: &str| directory.join(format!("{}-{host}{state}.{end}", self.name));
        let files = ServerCertificate { certificate: path("crt"), key: path("key"), keystore: path("keystore.pem") };
        let (certificate, key) = (builder.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap());
        fs::write(&files.certificate, &certificate).unwrap();
        fs::write(&files.key, &key).unwrap();
        fs::write(&files.keystore, [key, certificate].concat()).unwrap();
        files
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn common_name(name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    builder.build()
}

fn builder(
    validity: Validity,
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
) -> X509Builder {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let (from, to) = match validity {
        Validity::Now => (now - DAY_SECONDS, now + DAY_SECONDS),
        Validity::Expired => (now - 3 * DAY_SECONDS, now - DAY_SECONDS),
    };
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(to).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}
