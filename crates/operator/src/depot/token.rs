//! Is this bearer token an agent's, and which node's; or of a pod that takes a driver out of an image, and which pod's? Decided here,
//! without a call to the API server.
//!
//! A token is a JSON Web Token (RFC 7519) in compact form (RFC 7515): three base64url parts. The API server signs
//! ServiceAccount tokens with RS256 or, depending on its key, ES256 or ES384 (RFC 7518), and publishes its keys
//! (RFC 7517). Since Kubernetes 1.32 a token that is projected into a pod names the pod's node.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use tenon_api::pull;
use tenon_order::NodeName;

use crate::metrics::Rejection;

/// The audience that agents' tokens are made for.
pub const AUDIENCE: &str = "tenon-depot";
/// The agents' ServiceAccount.
pub const AGENT: &str = "tenon-agent";

/// No token that the API server makes is longer.
const MAX_TOKEN: usize = 8 * 1024;
/// How far the API server's clock and ours may differ, in seconds.
const LEEWAY: i64 = 30;

/// Why a token is refused. Says nothing of the token's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none, or not in this form.
    #[error("no well-formed bearer token")]
    Malformed,
    /// Another signature algorithm, or none.
    #[error("the token's signature algorithm is not accepted")]
    Algorithm,
    /// Signed with a key that the API server does not publish.
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the token's signature is wrong")]
    Signature,
    /// Another issuer.
    #[error("the token is another issuer's")]
    Issuer,
    /// Made for something else.
    #[error("the token is not made for this request's audience")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    Early,
    /// Not of whom the request is for.
    #[error("the token is another ServiceAccount's")]
    Subject,
    /// Bound to no node.
    #[error("the token names no node")]
    Node,
    /// Bound to no pod.
    #[error("the token names no pod")]
    Pod,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed => Rejection::TokenMalformed,
            Refusal::Algorithm => Rejection::TokenAlgorithm,
            Refusal::UnknownKey => Rejection::TokenKey,
            Refusal::Signature => Rejection::TokenSignature,
            Refusal::Issuer => Rejection::TokenIssuer,
            Refusal::Audience => Rejection::TokenAudience,
            Refusal::Expired => Rejection::TokenExpired,
            Refusal::Early => Rejection::TokenEarly,
            Refusal::Subject => Rejection::TokenSubject,
            Refusal::Node => Rejection::TokenNode,
            Refusal::Pod => Rejection::TokenPod,
        }
    }
}

/// The API server's discovery document, as far as it matters (section 3 of `OpenID` Connect Discovery 1.0).
#[derive(Clone, Debug, Deserialize)]
pub struct Discovery {
    /// What stands in tokens as `iss`.
    pub issuer: String,
}

/// A set of published keys (RFC 7517, section 5).
#[derive(Clone, Debug, Deserialize)]
pub struct KeySet {
    keys: Vec<PublishedKey>,
}

#[derive(Clone, Debug, Deserialize)]
struct PublishedKey {
    #[serde(default)]
    kid: String,
    #[serde(default)]
    kty: String,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct Issuer {
    name: String,
    keys: HashMap<String, Key>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    /// An uncompressed point.
    P384(Vec<u8>),
}

impl Issuer {
    /// The issuer of these documents. Keys of kinds that are not accepted are passed over.
    pub fn new(discovery: Discovery, published: KeySet) -> Self {
        let keys = published.keys.into_iter().filter_map(|key| Some((key.kid.clone(), Key::read(&key)?)));
        Issuer { name: discovery.issuer, keys: keys.collect() }
    }

    /// The node whose agent of `namespace` sent this token, at `now` in seconds since 1970.
    pub fn verify(&self, token: &str, namespace: &str, now: i64) -> Result<NodeName, Refusal> {
        self.claims(token)?.node(&self.name, namespace, now)
    }

    /// The pod, by its identity, that takes a driver out of an image in `namespace` and sent this token.
    pub fn verify_puller(&self, token: &str, namespace: &str, now: i64) -> Result<String, Refusal> {
        self.claims(token)?.puller(&self.name, namespace, now)
    }

    /// What a token says whose signature is one of ours.
    fn claims(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        let header: Header = decode(header)?;
        // RFC 7515, section 4.1.11: what must be understood is not.
        if header.crit.is_some() {
            return Err(Refusal::Malformed);
        }
        let algorithm = Algorithm::named(&header.alg).ok_or(Refusal::Algorithm)?;
        let key = header.kid.and_then(|kid| self.keys.get(&kid)).ok_or(Refusal::UnknownKey)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::Malformed)?;
        key.verify(algorithm, signed.as_bytes(), &signature)?;
        // Only now is anything that the token says worth reading.
        decode(payload)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    Es384,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Algorithm::Rs256),
            "ES256" => Some(Algorithm::Es256),
            "ES384" => Some(Algorithm::Es384),
            _ => None,
        }
    }
}

impl Key {
    fn read(key: &PublishedKey) -> Option<Self> {
        let number = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |size: usize| {
            let (x, y) = (number(&key.x)?, number(&key.y)?);
            (x.len() == size && y.len() == size).then(|| [&[4], x.as_slice(), y.as_slice()].concat())
        };
        match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => Some(Key::Rsa { modulus: number(&key.n)?, exponent: number(&key.e)? }),
            ("EC", Some("P-256")) => point(32).map(Key::P256),
            ("EC", Some("P-384")) => point(48).map(Key::P384),
            _ => None,
        }
    }

    /// The key decides which algorithm is right for it; the token cannot choose another.
    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        let verified = match (self, algorithm) {
            (Key::Rsa { modulus: n, exponent: e }, Algorithm::Rs256) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Key::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Key::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            _ => return Err(Refusal::Algorithm),
        };
        verified.map_err(|_| Refusal::Signature)
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Refusal> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

/// What the API server says of whoever bears the token (`pkg/serviceaccount/claims.go` in Kubernetes).
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audiences,
    exp: i64,
    nbf: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    private: Option<Private>,
}

/// RFC 7519, section 4.1.3: one, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Private {
    node: Option<Named>,
    pod: Option<Identified>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Identified {
    uid: String,
}

impl Claims {
    fn node(self, issuer: &str, namespace: &str, now: i64) -> Result<NodeName, Refusal> {
        self.check(issuer, AUDIENCE, &format!("system:serviceaccount:{namespace}:{AGENT}"), now)?;
        let node = self.private.and_then(|private| private.node).ok_or(Refusal::Node)?;
        node.name.parse().map_err(|_| Refusal::Node)
    }

    fn puller(self, issuer: &str, namespace: &str, now: i64) -> Result<String, Refusal> {
        let account = format!("system:serviceaccount:{namespace}:{}", pull::SERVICE_ACCOUNT);
        self.check(issuer, pull::AUDIENCE, &account, now)?;
        Ok(self.private.and_then(|private| private.pod).ok_or(Refusal::Pod)?.uid)
    }

    fn check(&self, issuer: &str, audience: &str, account: &str, now: i64) -> Result<(), Refusal> {
        if self.iss != issuer {
            return Err(Refusal::Issuer);
        }
        if !self.aud.include(audience) {
            return Err(Refusal::Audience);
        }
        if now >= self.exp.saturating_add(LEEWAY) {
            return Err(Refusal::Expired);
        }
        if self.nbf.is_some_and(|begin| now < begin.saturating_sub(LEEWAY)) {
            return Err(Refusal::Early);
        }
        if self.sub == account { Ok(()) } else { Err(Refusal::Subject) }
    }
}

impl Audiences {
    fn include(&self, audience: &str) -> bool {
        match self {
            Audiences::One(one) => one == audience,
            Audiences::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use rstest::rstest;
    use serde_json::{Value, json};

    pub(crate) const NOW: i64 = 1_800_000_000;

    /// An issuer of our own with one P-256 key.
    pub(crate) struct Authority {
        pair: EcdsaKeyPair,
    }

    impl Authority {
        pub(crate) fn new() -> Self {
            let random = SystemRandom::new();
            let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap();
            Authority { pair }
        }

        pub(crate) fn issuer(&self) -> Issuer {
            let point = self.pair.public_key().as_ref();
            let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
            let keys = json!({ "keys": [
                { "kty": "OKP", "kid": "of-another-kind", "crv": "Ed25519", "x": "AAAA" },
                { "use": "sig", "kty": "EC", "kid": "k1", "alg": "ES256", "crv": "P-256", "x": x, "y": y },
            ]});
            let discovery =
                json!({ "issuer": "https://issuer.example", "jwks_uri": "https://elsewhere.example" });
            Issuer::new(serde_json::from_value(discovery).unwrap(), serde_json::from_value(keys).unwrap())
        }

        pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        pub(crate) fn token(&self, node: &str, now: i64) -> String {
            let mut claims = claims(now);
            claims["kubernetes.io"]["node"]["name"] = json!(node);
            self.sign(&header(), &claims)
        }

        /// Of a pod that takes a driver out of an image.
        pub(crate) fn pods_token(&self, pod: &str, now: i64) -> String {
            let mut claims = claims(now);
            claims["aud"] = json!([pull::AUDIENCE]);
            claims["sub"] = json!(format!("system:serviceaccount:drivers:{}", pull::SERVICE_ACCOUNT));
            claims["kubernetes.io"]["pod"] = json!({ "name": "tenon-pull-0", "uid": pod });
            self.sign(&header(), &claims)
        }
    }

    fn header() -> Value {
        json!({ "alg": "ES256", "kid": "k1" })
    }

    fn claims(now: i64) -> Value {
        json!({
            "iss": "https://issuer.example",
            "sub": "system:serviceaccount:drivers:tenon-agent",
            "aud": ["tenon-depot"],
            "iat": now, "nbf": now, "exp": now + 3600,
            "kubernetes.io": {
                "namespace": "drivers",
                "node": { "name": "pine", "uid": "5d1f" },
                "pod": { "name": "tenon-node-x", "uid": "77" },
                "serviceaccount": { "name": "tenon-agent", "uid": "1" },
            },
        })
    }

    fn verify(authority: &Authority, token: &str, now: i64) -> Result<NodeName, Refusal> {
        authority.issuer().verify(token, "drivers", now)
    }

    #[test]
    fn an_agents_token_names_its_node() {
        let authority = Authority::new();
        let token = authority.sign(&header(), &claims(NOW));
        assert_eq!(verify(&authority, &token, NOW + 100), Ok("pine".parse().unwrap()));
    }

    #[rstest]
    #[case::wrong_issuer("iss", json!("https://issuer.example/"), Refusal::Issuer)]
    #[case::wrong_audience("aud", json!(["https://kubernetes.default.svc"]), Refusal::Audience)]
    #[case::no_audience("aud", json!([]), Refusal::Audience)]
    #[case::one_wrong_audience("aud", json!("depot"), Refusal::Audience)]
    #[case::expired("exp", json!(NOW - 31), Refusal::Expired)]
    #[case::early("nbf", json!(NOW + 31), Refusal::Early)]
    #[case::wrong_account("sub", json!("system:serviceaccount:drivers:default"), Refusal::Subject)]
    #[case::wrong_namespace("sub", json!("system:serviceaccount:default:tenon-agent"), Refusal::Subject)]
    #[case::no_node("kubernetes.io", json!({ "namespace": "drivers" }), Refusal::Node)]
    #[case::no_private_claims("kubernetes.io", json!(null), Refusal::Node)]
    #[case::odd_node("kubernetes.io", json!({ "node": { "name": "../pine" } }), Refusal::Node)]
    #[case::no_expiry("exp", json!(null), Refusal::Malformed)]
    fn one_wrong_claim_is_enough(#[case] claim: &str, #[case] value: Value, #[case] refusal: Refusal) {
        let authority = Authority::new();
        let mut claims = claims(NOW);
        claims[claim] = value;
        assert_eq!(verify(&authority, &authority.sign(&header(), &claims), NOW), Err(refusal));
    }

    #[rstest]
    #[case::one_audience("aud", json!("tenon-depot"))]
    #[case::several_audiences("aud", json!(["x", "tenon-depot"]))]
    #[case::just_expired("exp", json!(NOW - 29))]
    #[case::just_early("nbf", json!(NOW + 29))]
    #[case::always_begun("nbf", json!(null))]
    fn what_is_still_right(#[case] claim: &str, #[case] value: Value) {
        let authority = Authority::new();
        let mut claims = claims(NOW);
        claims[claim] = value;
        assert!(verify(&authority, &authority.sign(&header(), &claims), NOW).is_ok());
    }

    #[rstest]
    #[case::none(json!({ "alg": "none", "kid": "k1" }), Refusal::Algorithm)]
    #[case::symmetric(json!({ "alg": "HS256", "kid": "k1" }), Refusal::Algorithm)]
    #[case::another_keys(json!({ "alg": "RS256", "kid": "k1" }), Refusal::Algorithm)]
    #[case::unknown_key(json!({ "alg": "ES256", "kid": "k2" }), Refusal::UnknownKey)]
    #[case::key_of_another_kind(json!({ "alg": "ES256", "kid": "of-another-kind" }), Refusal::UnknownKey)]
    #[case::no_key(json!({ "alg": "ES256" }), Refusal::UnknownKey)]
    #[case::critical(json!({ "alg": "ES256", "kid": "k1", "crit": ["b64"] }), Refusal::Malformed)]
    fn the_header_cannot_weaken_anything(#[case] header: Value, #[case] refusal: Refusal) {
        let authority = Authority::new();
        assert_eq!(verify(&authority, &authority.sign(&header, &claims(NOW)), NOW), Err(refusal));
    }

    #[test]
    fn another_authoritys_signature_does_not_fit() {
        let token = Authority::new().sign(&header(), &claims(NOW));
        assert_eq!(verify(&Authority::new(), &token, NOW), Err(Refusal::Signature));
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let authority = Authority::new();
        let token = authority.sign(&header(), &claims(NOW));
        let unsigned = &token[..=token.rfind('.').unwrap()];
        assert_eq!(verify(&authority, unsigned, NOW), Err(Refusal::Signature));
    }

    /// RFC 7515, appendix A.2: RS256, from the standard's own key.
    #[test]
    fn the_standards_example_of_rs256_verifies() {
        let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR\
                 T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB\
                 dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia\
                 GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5\
                         jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb\
                         1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QO\
                         YEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let message = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvb\
                       S9pc19yb290Ijp0cnVlfQ";
        let published = PublishedKey {
            kid: String::new(),
            kty: "RSA".into(),
            crv: None,
            n: Some(n.into()),
            e: Some("AQAB".into()),
            x: None,
            y: None,
        };
        let key = Key::read(&published).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert_eq!(key.verify(Algorithm::Rs256, message.as_bytes(), &signature), Ok(()));
        assert_eq!(
            key.verify(Algorithm::Rs256, &message.as_bytes()[1..], &signature),
            Err(Refusal::Signature)
        );
        assert_eq!(key.verify(Algorithm::Es256, message.as_bytes(), &signature), Err(Refusal::Algorithm));
    }

    proptest! {
        #[test]
        fn a_tampered_token_is_refused(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
            let authority = Authority::new();
            let mut token = authority.sign(&header(), &claims(NOW));
            // The last character of the signature has bits that mean nothing.
            let at = at.index(token.len() - 1);
            prop_assume!(token[at..=at] != with);
            token.replace_range(at..=at, &with);
            prop_assert!(verify(&authority, &token, NOW).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(token in "[ -~]{0,400}") {
            prop_assert!(verify(&Authority::new(), &token, NOW).is_err());
        }
    }
}
