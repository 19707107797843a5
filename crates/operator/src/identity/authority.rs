//! The operator's own certificate authority: what it issues, and when what is issued anew.
//!
//! An authority lives for two years, the depot's certificate for thirty days; both are replaced after two thirds of
//! that. A new authority is published a day before it issues anything, so that every agent trusts it by then, and the
//! old one stays published until it expires.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use x509_parser::extensions::GeneralName;

/// Seconds since 1970.
pub type UnixSeconds = i64;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const AUTHORITY_LIFE: i64 = 2 * 365 * DAY;
const LEAF_LIFE: i64 = 30 * DAY;
/// Certificates are valid a little before they are made: a node's clock may be behind.
const BACKDATED: i64 = HOUR;
/// How long an authority is published before it is used.
const PUBLISHED_FIRST: i64 = DAY;

/// A certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It could not be made.
    #[error("make a certificate")]
    Make(#[source] rcgen::Error),
    /// It is no certificate in PEM.
    #[error("read a certificate: not X.509 in PEM")]
    Read,
    /// A time beyond all calendars.
    #[error("make a certificate: the clock is out of range")]
    Clock,
}

/// A certificate and its private key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// PKCS#8.
    pub key: String,
}

impl Pair {
    /// Until when the certificate is valid.
    pub fn expires(&self) -> Result<UnixSeconds, CertificateError> {
        Ok(Facts::of(&self.certificate)?.expires)
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}

/// Everything that belongs to serving: what the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Issues the depot's certificates.
    pub authority: Pair,
    /// Will issue them: published already.
    pub next: Option<Pair>,
    /// Issued them once: published still. Its key is gone.
    pub previous: Option<String>,
    /// The depot's certificate.
    pub leaf: Pair,
}

impl Serving {
    /// The certificates that agents trust, in PEM.
    pub fn trusted(&self) -> String {
        let next = self.next.as_ref().map(|pair| pair.certificate.as_str());
        [Some(self.authority.certificate.as_str()), next, self.previous.as_deref()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Brings everything up to date, so that the depot can serve as `hosts` (sorted, without duplicates) at `now`.
    /// What needs no change is returned as it is.
    pub fn renewed(
        found: Option<Self>,
        hosts: &[String],
        now: UnixSeconds,
    ) -> Result<Self, CertificateError> {
        let mut serving = match found {
            Some(serving) => serving,
            None => Serving::fresh(hosts, now)?,
        };
        while let Some(due) = serving.due(hosts, now)? {
            serving = serving.with(due, hosts, now)?;
        }
        Ok(serving)
    }

    fn fresh(hosts: &[String], now: UnixSeconds) -> Result<Self, CertificateError> {
        let authority = issue_authority(now)?;
        let leaf = issue_leaf(&authority, hosts, now)?;
        Ok(Serving { authority, next: None, previous: None, leaf })
    }

    /// The first thing to do, if there is any. Every answer, once done, is not given again at the same `now`.
    fn due(&self, hosts: &[String], now: UnixSeconds) -> Result<Option<Due>, CertificateError> {
        let authority = Facts::of(&self.authority.certificate)?;
        if now >= authority.expires {
            return Ok(Some(Due::Everything));
        }
        if let Some(next) = &self.next {
            if now >= Facts::of(&next.certificate)?.issued + PUBLISHED_FIRST {
                return Ok(Some(Due::Promotion));
            }
        } else if authority.is_due(now) {
            return Ok(Some(Due::Next));
        }
        let leaf = Facts::of(&self.leaf.certificate)?;
        if leaf.is_due(now) || leaf.hosts != hosts || leaf.issuer != authority.subject {
            return Ok(Some(Due::Leaf));
        }
        if let Some(previous) = &self.previous
            && now >= Facts::of(previous)?.expires
        {
            return Ok(Some(Due::Forgetting));
        }
        Ok(None)
    }

    fn with(self, due: Due, hosts: &[String], now: UnixSeconds) -> Result<Self, CertificateError> {
        Ok(match (due, self.next) {
            (Due::Everything, _) => Serving::fresh(hosts, now)?,
            (Due::Next, _) => Serving { next: Some(issue_authority(now)?), ..self },
            (Due::Promotion, Some(next)) => {
                let leaf = issue_leaf(&next, hosts, now)?;
                Serving { authority: next, next: None, previous: Some(self.authority.certificate), leaf }
            }
            (Due::Forgetting, next) => Serving { previous: None, next, ..self },
            (Due::Leaf | Due::Promotion, next) => {
                let leaf = issue_leaf(&self.authority, hosts, now)?;
                Serving { next, leaf, ..self }
            }
        })
    }
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Nothing is valid any more.
    Everything,
    /// A next authority has to be published.
    Next,
    /// The next authority becomes the authority.
    Promotion,
    /// The depot needs another certificate.
    Leaf,
    /// The previous authority has expired.
    Forgetting,
}

/// What a certificate says.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    issued: UnixSeconds,
    expires: UnixSeconds,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    hosts: Vec<String>,
}

impl Facts {
    fn of(pem: &str) -> Result<Self, CertificateError> {
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| CertificateError::Read)?;
        let certificate = pem.parse_x509().map_err(|_| CertificateError::Read)?;
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Read)?;
        let mut hosts: Vec<_> =
            names.iter().flat_map(|names| &names.value.general_names).filter_map(host_of).collect();
        hosts.sort();
        let validity = certificate.validity();
        Ok(Facts {
            issued: validity.not_before.timestamp() + BACKDATED,
            expires: validity.not_after.timestamp(),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            hosts,
        })
    }

    /// Whether two thirds of its life are over.
    fn is_due(&self, now: UnixSeconds) -> bool {
        now >= self.issued + (self.expires - self.issued) / 3 * 2
    }
}

fn host_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn issue_authority(now: UnixSeconds) -> Result<Pair, CertificateError> {
    let key = KeyPair::generate().map_err(CertificateError::Make)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(CertificateError::Make)?;
    // The time tells one authority from the next.
    params.distinguished_name = named(&format!("Tenon depot authority {now}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (time(now - BACKDATED)?, time(now + AUTHORITY_LIFE)?);
    let certificate = params.self_signed(&key).map_err(CertificateError::Make)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn issue_leaf(authority: &Pair, hosts: &[String], now: UnixSeconds) -> Result<Pair, CertificateError> {
    let issuer_key = KeyPair::from_pem(&authority.key).map_err(CertificateError::Make)?;
    let issuer =
        Issuer::from_ca_cert_pem(&authority.certificate, issuer_key).map_err(CertificateError::Make)?;
    let expires = (now + LEAF_LIFE).min(Facts::of(&authority.certificate)?.expires);
    let key = KeyPair::generate().map_err(CertificateError::Make)?;
    let mut params = CertificateParams::new(hosts).map_err(CertificateError::Make)?;
    params.distinguished_name = named("Tenon depot");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (time(now - BACKDATED)?, time(expires)?);
    let certificate = params.signed_by(&key, &issuer).map_err(CertificateError::Make)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn time(seconds: UnixSeconds) -> Result<time::OffsetDateTime, CertificateError> {
    time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CertificateError::Clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = 1_800_000_000;

    fn hosts() -> Vec<String> {
        vec!["10.0.0.7".into(), "depot.example".into(), "fd00::7".into()]
    }

    fn at(found: &Serving, now: UnixSeconds) -> Serving {
        Serving::renewed(Some(found.clone()), &hosts(), now).unwrap()
    }

    #[test]
    fn what_is_fresh_is_left_alone() {
        let serving = Serving::renewed(None, &hosts(), NOW).unwrap();
        assert_eq!(at(&serving, NOW), serving);
        assert_eq!(at(&serving, NOW + 19 * DAY), serving);
    }

    #[test]
    fn the_leaf_is_renewed_after_two_thirds_by_the_same_authority() {
        let serving = Serving::renewed(None, &hosts(), NOW).unwrap();
        let renewed = at(&serving, NOW + 20 * DAY);
        assert_ne!(renewed.leaf, serving.leaf);
        assert_eq!(renewed.authority, serving.authority);
        assert_eq!(renewed.trusted(), serving.trusted());
    }

    #[test]
    fn another_host_needs_another_leaf() {
        let serving = Serving::renewed(None, &hosts(), NOW).unwrap();
        let other = vec!["elsewhere.example".to_owned()];
        let renewed = Serving::renewed(Some(serving.clone()), &other, NOW + 1).unwrap();
        assert_ne!(renewed.leaf, serving.leaf);
        assert_eq!(Facts::of(&renewed.leaf.certificate).unwrap().hosts, other);
    }

    #[test]
    fn a_new_authority_is_trusted_before_it_is_used_and_the_old_one_after() {
        let begin = Serving::renewed(None, &hosts(), NOW).unwrap();
        let due = NOW + AUTHORITY_LIFE / 3 * 2;
        let published = at(&begin, due);
        let next = published.next.clone().unwrap();
        assert_eq!(published.authority, begin.authority);
        assert!(published.trusted().contains(&next.certificate));

        assert_eq!(at(&published, due + DAY - 1).authority, begin.authority);
        let promoted = at(&published, due + DAY);
        assert_eq!((&promoted.authority, &promoted.next), (&next, &None));
        let subject = Facts::of(&next.certificate).unwrap().subject;
        assert_eq!(Facts::of(&promoted.leaf.certificate).unwrap().issuer, subject);
        assert!(promoted.trusted().contains(&begin.authority.certificate));

        let expired = at(&promoted, NOW + AUTHORITY_LIFE);
        assert_eq!(expired.previous, None);
        assert_eq!(expired.authority, next);
    }

    #[test]
    fn after_years_of_absence_everything_is_made_anew() {
        let begin = Serving::renewed(None, &hosts(), NOW).unwrap();
        let late = at(&begin, NOW + 3 * AUTHORITY_LIFE);
        assert_ne!(late.authority, begin.authority);
        assert_eq!(late.previous, None);
    }

    #[test]
    fn every_day_of_ten_years_ends_in_something_valid() {
        let mut serving = Serving::renewed(None, &hosts(), NOW).unwrap();
        for day in 0..3650 {
            let now = NOW + day * DAY;
            serving = at(&serving, now);
            let leaf = Facts::of(&serving.leaf.certificate).unwrap();
            let authority = Facts::of(&serving.authority.certificate).unwrap();
            assert!(now < leaf.expires && leaf.expires <= authority.expires);
            assert_eq!(leaf.issuer, authority.subject);
        }
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        let mut serving = Serving::renewed(None, &hosts(), NOW).unwrap();
        serving.leaf.certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into();
        assert!(matches!(serving.due(&hosts(), NOW), Err(CertificateError::Read)));
    }
}
