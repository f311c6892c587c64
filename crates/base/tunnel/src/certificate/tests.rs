use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData,
    SignatureAlgorithm, SigningKey,
};
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{ServerName, UnixTime};

use super::*;

const DOMAIN: &str = "abc.tunnel.localhost";
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn valid(parameters: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let since = |time: SystemTime| rcgen::date_time_ymd(1970, 1, 1) + time.duration_since(UNIX_EPOCH).unwrap();
    parameters.not_before = since(from);
    parameters.not_after = since(to);
}

fn ca_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "test CA");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid(&mut parameters, now() - DAY, now() + 100 * DAY);
    parameters
}

/// A key of any shape whose signatures are nonsense: acceptance looks at strength, not at the self-signature.
struct Shaped {
    public: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl PublicKeyData for Shaped {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Shaped {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![7; 64])
    }
}

fn rsa(bits: usize) -> Shaped {
    let bytes = bits / 8;
    let mut integer = vec![0x02, 0x82, ((bytes + 1) >> 8) as u8, (bytes + 1) as u8, 0x00];
    integer.extend(vec![0xc5; bytes]);
    integer.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
    let mut public = vec![0x30, 0x82, (integer.len() >> 8) as u8, integer.len() as u8];
    public.extend(integer);
    Shaped { public, algorithm: &PKCS_RSA_SHA256 }
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn replaced(der: &[u8], from: &[u8], to: &[u8]) -> String {
    assert_eq!(from.len(), to.len());
    let mut der = der.to_vec();
    let mut found = 0;
    for at in 0..der.len() - from.len() {
        if &der[at..at + from.len()] == from {
            der[at..at + to.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0, "there was nothing to replace");
    pem_of(&der)
}

fn signed(parameters: CertificateParams, key: &impl SigningKey) -> String {
    parameters.self_signed(key).unwrap().pem()
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut parameters = ca_parameters();
    change(&mut parameters);
    signed(parameters, &key())
}

/// Extensions written by hand, where the library writes only good ones.
fn by_hand(basic: Option<(&[u8], bool)>, identifier: bool) -> String {
    with(|parameters| {
        parameters.is_ca = IsCa::NoCa;
        if let Some((content, critical)) = basic {
            let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 19], content.to_vec());
            extension.set_criticality(critical);
            parameters.custom_extensions.push(extension);
        }
        if identifier {
            let content = [&[0x04, 0x14][..], &[9; 20]].concat();
            parameters.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 14], content));
        }
    })
}

const IS_CA: &[u8] = &[0x30, 0x03, 0x01, 0x01, 0xff];

#[test]
fn authorities_are_taken_by_the_contracts_rules() {
    use CertificateError as E;
    let good = with(|_| {});
    let two = format!("{good}{}", with(|_| {}));
    let p256 = ca_parameters().self_signed(&key()).unwrap();
    let p192 = replaced(p256.der(), &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1]);
    let rsa_certificate = ca_parameters().self_signed(&rsa(2048)).unwrap();
    let sha256 = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    let sha1 = replaced(rsa_certificate.der(), &sha256, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5]);
    let md5 = replaced(rsa_certificate.der(), &sha256, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4]);
    let key_pem = key().serialize_pem();
    let trailing = pem_of(&[p256.der().as_ref(), b"x"].concat());
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();

    let table: Vec<(&str, String, Option<E>)> = vec![
        ("good", good.clone(), None),
        ("good with text around it", format!("subject: x\n{good}\n# end\n"), None),
        ("good, P-384", signed(ca_parameters(), &p384), None),
        ("good, RSA 2048", rsa_certificate.pem(), None),
        ("good, with a path length", with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))), None),
        ("good, by hand", by_hand(Some((IS_CA, true)), true), None),
        ("no CA", with(|p| p.is_ca = IsCa::ExplicitNoCa), Some(E::NotAnAuthority)),
        ("no BasicConstraints", by_hand(None, true), Some(E::NotAnAuthority)),
        ("BasicConstraints not critical", by_hand(Some((IS_CA, false)), true), Some(E::NotAnAuthority)),
        (
            "BasicConstraints twice",
            with(|p| {
                let mut again = CustomExtension::from_oid_content(&[2, 5, 29, 19], IS_CA.to_vec());
                again.set_criticality(true);
                p.custom_extensions.push(again);
            }),
            Some(E::NotAnAuthority),
        ),
        ("no SubjectKeyIdentifier", by_hand(Some((IS_CA, true)), false), Some(E::NoSubjectKeyIdentifier)),
        ("no KeyUsage", with(|p| p.key_usages = Vec::new()), Some(E::NoCertificateSigning)),
        ("no keyCertSign", with(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]), Some(E::NoCertificateSigning)),
        ("expired", with(|p| valid(p, now() - 2 * DAY, now() - DAY)), Some(E::Expired)),
        ("not yet valid", with(|p| valid(p, now() + DAY, now() + 2 * DAY)), Some(E::NotYetValid)),
        ("P-192", p192, Some(E::WeakKey)),
        ("RSA 1024", signed(ca_parameters(), &rsa(1024)), Some(E::WeakKey)),
        ("RSA 2040", signed(ca_parameters(), &rsa(2040)), Some(E::WeakKey)),
        ("Ed25519", signed(ca_parameters(), &ed25519), Some(E::WeakKey)),
        ("SHA-1", sha1, Some(E::WeakSignature)),
        ("MD5", md5, Some(E::WeakSignature)),
        ("two", two, Some(E::NotOneCertificate("there is more than one"))),
        ("the same twice", format!("{good}{good}"), Some(E::NotOneCertificate("there is more than one"))),
        ("with its key", format!("{good}{key_pem}"), Some(E::PrivateKey)),
        ("a key alone", key_pem.clone(), Some(E::PrivateKey)),
        ("an EC key", good.clone() + &key_pem.replace("PRIVATE", "EC PRIVATE"), Some(E::PrivateKey)),
        ("an encrypted key", good.clone() + &key_pem.replace("PRIVATE", "ENCRYPTED PRIVATE"), Some(E::PrivateKey)),
        (
            "a public key",
            good.replace("CERTIFICATE", "PUBLIC KEY"),
            Some(E::NotOneCertificate("it is PEM of something else")),
        ),
        (
            "a trusted certificate",
            good.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
            Some(E::NotOneCertificate("it is PEM of something else")),
        ),
        ("empty", String::new(), Some(E::NotOneCertificate("there is none"))),
        ("cut short", good[..good.len() / 2].to_owned(), Some(E::NotOneCertificate("its PEM is broken"))),
        ("not base64", good.replace("MII", "M!I"), Some(E::NotOneCertificate("its PEM is broken"))),
        ("bytes after it", trailing, Some(E::Unreadable)),
        ("no certificate inside", pem_of(b"hello"), Some(E::Unreadable)),
        ("8 KiB and a byte", format!("{good}{}", "#".repeat(MAX_PEM_BYTES + 1 - good.len())), Some(E::TooLarge)),
        ("8 KiB", format!("{good}{}", "#".repeat(MAX_PEM_BYTES - good.len())), None),
    ];
    for (what, pem, expected) in table {
        assert_eq!(accept_ca(&pem, now()).err(), expected, "{what}");
    }
}

#[test]
fn an_authority_is_named_by_its_fingerprint_and_its_end() {
    let pem = with(|_| {});
    let ca = accept_ca(&pem, now()).unwrap();
    assert_eq!(ca.fingerprint_sha256_hex.len(), 64);
    assert_eq!(ca.fingerprint_sha256_hex, crate::identity::body_digest(&ca.der));
    assert_eq!(ca.not_after, now() + 100 * DAY);
    assert_eq!(stored_ca(&pem).unwrap(), ca);
}

#[test]
fn our_own_authority_is_taken_and_its_leaf_verifies() {
    let own = new_ca(DOMAIN, now()).unwrap();
    let ca = accept_ca(&own.certificate_pem, now()).unwrap();
    assert_eq!(ca.not_after, now() + CA_LIFETIME);
    let leaf = new_leaf(&own, DOMAIN, now()).unwrap();
    let again = new_leaf(&own, DOMAIN, now() + 60 * DAY).unwrap();
    let verifier = LeafVerifier::new(std::slice::from_ref(&ca));
    verify(&verifier, &leaf.certificate_pem, &format!("wiki.{DOMAIN}"), now()).unwrap();
    verify(&verifier, &again.certificate_pem, &format!("wiki.{DOMAIN}"), now() + 60 * DAY).unwrap();
    assert_eq!(days_left(&leaf.certificate_pem, now()), Ok(90));
    assert_eq!(days_left(&leaf.certificate_pem, now() + 60 * DAY + DAY / 2), Ok(29));
    assert_eq!(days_left(&leaf.certificate_pem, now() + 91 * DAY), Ok(-1));
    assert!(days_left("nothing", now()).is_err());
    assert!(new_leaf(&own, DOMAIN, now() + CA_LIFETIME + DAY).is_err(), "an expired authority signs nothing");
}

fn verify(verifier: &LeafVerifier, pem: &str, name: &str, now: SystemTime) -> Result<(), LeafError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let through_tls = verifier.verify_server_cert(
        &der,
        &[],
        &ServerName::try_from(name.to_owned()).unwrap(),
        &[],
        UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap()),
    );
    let result = verifier.verify(&der, &ServerName::try_from(name.to_owned()).unwrap(), now);
    assert_eq!(through_tls.err().and_then(|error| LeafError::of(&error)), result.err());
    result
}

fn issuer(parameters: &CertificateParams, key: KeyPair) -> (Issuer<'static, KeyPair>, Ca) {
    let pem = parameters.self_signed(&key).unwrap().pem();
    (Issuer::new(parameters.clone(), key), stored_ca(&pem).unwrap())
}

fn leaf_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::new([format!("*.{DOMAIN}")]).unwrap();
    parameters.use_authority_key_identifier_extension = true;
    valid(&mut parameters, now() - DAY, now() + 10 * DAY);
    parameters
}

#[test]
fn a_leaf_counts_by_the_contracts_rules() {
    let (authority, ca) = issuer(&ca_parameters(), key());
    let (other, other_ca) = issuer(&ca_parameters(), key());
    let leaf = |change: fn(&mut CertificateParams)| {
        let mut parameters = leaf_parameters();
        change(&mut parameters);
        parameters.signed_by(&key(), &authority).unwrap().pem()
    };
    // An intermediate of the registered authority, with the same powers.
    let intermediate_key = key();
    let intermediate = ca_parameters().signed_by(&intermediate_key, &authority).unwrap();
    drop(intermediate);
    let mut under = ca_parameters();
    under.distinguished_name.push(DnType::CommonName, "intermediate");
    let by_intermediate = leaf_parameters().signed_by(&key(), &Issuer::new(under, intermediate_key)).unwrap().pem();
    // Another authority's leaf that claims to be this one's.
    let mut claimed = ca_parameters();
    let identifier = super::accept::subject_key_identifier(&super::accept::parse(&ca.der).unwrap()).unwrap();
    claimed.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(identifier);
    let impostor = leaf_parameters().signed_by(&key(), &Issuer::new(claimed, key())).unwrap().pem();
    let weak = leaf_parameters().signed_by(&rsa(1024), &authority).unwrap().pem();
    let own_authority_as_leaf = ca_parameters().signed_by(&key(), &authority).unwrap().pem();
    let name = format!("wiki.{DOMAIN}");

    let table: Vec<(&str, String, Result<(), LeafError>)> = vec![
        ("wildcard, no EKU", leaf(|_| {}), Ok(())),
        ("exact name", leaf(|p| *p = with_names(&[&format!("wiki.{DOMAIN}")])), Ok(())),
        (
            "EKU with serverAuth",
            leaf(|p| {
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]
            }),
            Ok(()),
        ),
        (
            "EKU without serverAuth",
            leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            Err(LeafError::Purpose),
        ),
        ("another route's name", leaf(|p| *p = with_names(&[&format!("other.{DOMAIN}")])), Err(LeafError::Name)),
        ("the domain alone", leaf(|p| *p = with_names(&[DOMAIN])), Err(LeafError::Name)),
        ("a wildcard one label up", leaf(|p| *p = with_names(&["*.tunnel.localhost"])), Err(LeafError::Name)),
        ("no name", leaf(|p| *p = with_names(&[])), Err(LeafError::Name)),
        ("no AKI", leaf(|p| p.use_authority_key_identifier_extension = false), Err(LeafError::UnknownAuthority)),
        ("expired", leaf(|p| valid(p, now() - 2 * DAY, now() - DAY)), Err(LeafError::Expired)),
        ("not yet valid", leaf(|p| valid(p, now() + DAY, now() + 2 * DAY)), Err(LeafError::NotYetValid)),
        ("by an intermediate", by_intermediate, Err(LeafError::UnknownAuthority)),
        (
            "by another authority",
            leaf_parameters().signed_by(&key(), &other).unwrap().pem(),
            Err(LeafError::UnknownAuthority),
        ),
        ("by an impostor", impostor, Err(LeafError::Invalid)),
        ("a weak key", weak, Err(LeafError::Weak)),
        ("an authority, not a server", own_authority_as_leaf, Err(LeafError::UnknownAuthority)),
    ];
    let verifier = LeafVerifier::new(std::slice::from_ref(&ca));
    for (what, pem, expected) in &table {
        assert_eq!(verify(&verifier, pem, &name, now()), *expected, "{what}");
    }
    // Two authorities at once, as during a rotation.
    let both = LeafVerifier::new(&[other_ca, ca]);
    assert_eq!(verify(&both, &table[0].1, &name, now()), Ok(()));
    assert_eq!(verify(&both, &table[12].1, &name, now()), Ok(()));
}

fn with_names(names: &[&str]) -> CertificateParams {
    let mut parameters =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    parameters.use_authority_key_identifier_extension = true;
    valid(&mut parameters, now() - DAY, now() + 10 * DAY);
    parameters
}

#[test]
fn a_wildcard_covers_one_label() {
    let own = new_ca(DOMAIN, now()).unwrap();
    let leaf = new_leaf(&own, DOMAIN, now()).unwrap();
    let verifier = LeafVerifier::new(&[accept_ca(&own.certificate_pem, now()).unwrap()]);
    for (name, expected) in [
        (format!("wiki.{DOMAIN}"), Ok(())),
        (format!("WIKI.{DOMAIN}"), Ok(())),
        (DOMAIN.to_owned(), Err(LeafError::Name)),
        (format!("a.b.{DOMAIN}"), Err(LeafError::Name)),
        ("wiki.abd.tunnel.localhost".to_owned(), Err(LeafError::Name)),
        ("127.0.0.1".to_owned(), Err(LeafError::Name)),
    ] {
        assert_eq!(verify(&verifier, &leaf.certificate_pem, &name, now()), expected, "{name}");
    }
}

#[test]
fn an_authority_that_has_expired_since_vouches_for_nobody() {
    let mut parameters = ca_parameters();
    valid(&mut parameters, now() - DAY, now() + DAY);
    let (authority, ca) = issuer(&parameters, key());
    let leaf = leaf_parameters().signed_by(&key(), &authority).unwrap().pem();
    let verifier = LeafVerifier::new(&[ca]);
    let name = format!("wiki.{DOMAIN}");
    assert_eq!(verify(&verifier, &leaf, &name, now()), Ok(()));
    assert_eq!(verify(&verifier, &leaf, &name, now() + 2 * DAY), Err(LeafError::AuthorityExpired));
}

#[test]
fn without_an_authority_there_is_no_client() {
    assert!(client_config(&[]).is_err());
    let leaf = new_leaf(&new_ca(DOMAIN, now()).unwrap(), DOMAIN, now()).unwrap();
    let name = format!("wiki.{DOMAIN}");
    assert_eq!(verify(&LeafVerifier::new(&[]), &leaf.certificate_pem, &name, now()), Err(LeafError::NoAuthority));
}
