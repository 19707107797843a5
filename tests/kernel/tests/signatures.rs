//! Kernels believe the signatures that we make, and no others.
//!
//! What we make is held against the kernel's own `sign-file`, against OpenSSL, and against kernels that load only what
//! somebody whom they trust has signed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails like a test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use rstest::rstest;
use tenon_kmod::KernelFacts;
use tenon_kmod::object::Signature;
use tenon_kmod::predict::{Circumstances, Enforcement, SignatureCheck, Verdict, predict_file};
use tenon_lab::Trial;
use tenon_lab::certificates;
use tenon_lab::command;
use tenon_lab::kernel::{Kernel, Origin};
use tenon_lab::setup::Supplies;
use tenon_lab::trial::{Load, Tried};
use tenon_sign::{Certificate, Hash, Identity, LocalKey, sign, verify};
use tenon_test_kernel::shelf::Shelf;

const EKEYREJECTED: i32 = 129;
const EPERM: i32 = 1;
/// The three hashes that `sign-file` is ever told to use.
const HASHES: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

/// A key and a certificate as files, for programs, and as an identity.
struct Party {
    folder: tempfile::TempDir,
    identity: Identity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rsa2048,
    Rsa4096,
    P384,
}

impl Algorithm {
    fn openssl(self) -> &'static [&'static str] {
        match self {
            Self::Rsa2048 => certificates::RSA_2048,
            Self::Rsa4096 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
            Self::P384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        }
    }
}

impl Party {
    /// With a certificate of this number that is as short as certificates can be: newer kernels have little room for one.
    fn new(algorithm: Algorithm, number: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        certificates::make(folder.path(), algorithm.openssl(), number).unwrap();
        let key = LocalKey::read(&fs::read(file("key.pem")).unwrap()).unwrap();
        let certificate = Certificate::read(&fs::read(file("certificate.pem")).unwrap()).unwrap();
        let identity = Identity::new(certificate, Box::new(key)).unwrap();
        Self { folder, identity }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// A module as the kernel's own program signs it.
fn signed_by_the_kernels_program(program: &Path, party: &Party, hash: Hash, module: &[u8]) -> Vec<u8> {
    let file = party.path("module.ko");
    fs::write(&file, module).unwrap();
    let (key, certificate) = (party.path("key.pem"), party.path("certificate.pem"));
    command::run(Command::new(program).args([hash.as_str(), &key, &certificate, &file])).unwrap();
    fs::read(file).unwrap()
}

/// What OpenSSL says of the last signature.
fn is_good_for_openssl(party: &Party, signed: &[u8]) -> bool {
    let Signature::Appended(signature) = Signature::parse(signed) else { panic!("no signature") };
    fs::write(party.path("content"), signed.get(..signature.signed_length).unwrap()).unwrap();
    fs::write(party.path("message"), signed.get(signature.signature).unwrap()).unwrap();
    let arguments = ["cms", "-verify", "-binary", "-inform", "DER", "-noverify", "-nointern"];
    let mut openssl = Command::new("openssl");
    openssl.args(arguments).args(["-content", &party.path("content"), "-in", &party.path("message")]);
    openssl.args(["-certfile", &party.path("certificate.pem"), "-out", "/dev/null"]);
    command::run(&mut openssl).is_ok()
}

#[rstest]
fn the_bytes_are_those_of_the_kernels_own_program(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
    #[values(Algorithm::Rsa2048, Algorithm::Rsa4096, Algorithm::P384)] algorithm: Algorithm,
) {
    let kernel = Supplies::get().unwrap().kernel(origin).unwrap().clone();
    let program = kernel.sign_file().unwrap();
    let party = Party::new(algorithm, "1");
    let trusted = [party.identity.certificate().clone()];
    let module = Shelf::fill(kernel).driver("simple-kmod").unwrap().file.clone();
    for hash in HASHES {
        let ours = sign(&module, &party.identity, hash).unwrap();
        let theirs = signed_by_the_kernels_program(&program, &party, hash, &module);
        if algorithm == Algorithm::P384 {
            // Theirs differs from one time to the next.
            assert_eq!(verify(&theirs, &trusted), tenon_sign::Verdict::Good { certificate: 0, hash });
        } else {
            assert!(ours == theirs, "{hash}: {} and {} bytes differ", ours.len(), theirs.len());
        }
        assert!(is_good_for_openssl(&party, &ours), "{hash}");
        let mut changed = ours.clone();
        changed[64] ^= 1;
        assert!(!is_good_for_openssl(&party, &changed), "{hash}: OpenSSL would believe anything");
    }
}

#[rstest]
#[case::rsa_on_the_older_kernel(Origin::Stable, Algorithm::Rsa2048)]
#[case::rsa_on_the_newer_kernel(Origin::Backports, Algorithm::Rsa2048)]
#[case::an_elliptic_key_on_the_newer_kernel(Origin::Backports, Algorithm::P384)]
#[case::an_elliptic_key_on_the_older_kernel(Origin::Stable, Algorithm::P384)]
#[tokio::test]
async fn a_kernel_loads_what_we_sign_and_nothing_else(#[case] origin: Origin, #[case] algorithm: Algorithm) {
    let stock = Supplies::get().unwrap().kernel(origin).unwrap().clone();
    let shelf = Shelf::fill(stock.clone());
    let module = shelf.driver("simple-kmod").unwrap().file.clone();
    let (ours, other) = (Party::new(algorithm, "1"), Party::new(algorithm, "2"));
    let folder = tempfile::tempdir().unwrap();
    let kernel = stock.trusting(&[ours.identity.certificate().der()], folder.path()).unwrap();
    let by = |party: &Party, module: &[u8], hash| sign(module, &party.identity, hash).unwrap();
    let good = by(&ours, &module, Hash::Sha256);
    let mut changed = good.clone();
    changed[64] ^= 1;
    let over_another = by(&ours, &by(&other, &module, Hash::Sha256), Hash::Sha256);
    let below_another = by(&other, &good, Hash::Sha256);

    let knows = |hash| knows(origin, algorithm, hash);
    let mut loads = vec![
        ("signed with sha256", good.clone(), knows(Hash::Sha256)),
        ("signed with sha384", by(&ours, &module, Hash::Sha384), knows(Hash::Sha384)),
        ("signed with sha512", by(&ours, &module, Hash::Sha512), knows(Hash::Sha512)),
        ("signed by another before", over_another, knows(Hash::Sha256)),
        ("not signed", module.clone(), false),
        ("signed by another", by(&other, &module, Hash::Sha256), false),
        ("signed by another afterwards", below_another, false),
        ("changed afterwards", changed, false),
    ];
    // What we say of a file beforehand is what the kernel does, where it knows the hash and the kind of key.
    let trusted = [ours.identity.certificate().clone()];
    for (name, file, loads) in &loads {
        match verify(file, &trusted) {
            tenon_sign::Verdict::Good { hash, .. } => assert_eq!(*loads, knows(hash), "{name}"),
            _ => assert!(!loads, "{name}"),
        }
    }
    for tried in try_each(&kernel, "module.sig_enforce=1", &loads).await {
        tried.assert(EKEYREJECTED);
        tried.assert_predicted(&shelf.facts, Enforcement::Enforced, &trusted);
    }
    if !knows(Hash::Sha256) {
        return;
    }
    // A locked kernel has another word for what nobody signed whom it trusts.
    loads.retain(|(name, ..)| *name != "changed afterwards");
    for tried in try_each(&kernel, "lockdown=integrity", &loads).await {
        tried.assert(EPERM);
        tried.assert_predicted(&shelf.facts, Enforcement::Lockdown, &trusted);
    }
}

/// Whether a kernel as it boots can verify that: the older one is built without elliptic keys, and has SHA-384 and SHA-512
/// in a module.
fn knows(origin: Origin, algorithm: Algorithm, hash: Hash) -> bool {
    origin == Origin::Backports || (algorithm != Algorithm::P384 && hash == Hash::Sha256)
}

/// What came of a load, beside what should have come of it.
struct Judged {
    name: String,
    file: Vec<u8>,
    loads: bool,
    tried: Tried,
}

impl Judged {
    fn assert(&self, refusal: i32) {
        let expected = if self.loads { 0 } else { refusal };
        assert_eq!(self.tried.errno, expected, "{}: the kernel says {:?}", self.name, self.tried.log);
        let tainted = self.tried.log.iter().any(|line| line.contains("module verification failed"));
        assert!(!tainted, "{}: {:?}", self.name, self.tried.log);
    }

    /// What `kubectl tenon check --trust` says is what came of it; of a hash that is in a module it may say nothing.
    fn assert_predicted(&self, facts: &KernelFacts, enforcement: Enforcement, trusted: &[Certificate]) {
        let signature = verify(&self.file, trusted).check(trusted);
        let circumstances = Circumstances { enforcement, signature, ..Circumstances::default() };
        let prediction = predict_file(&self.file, facts, &circumstances);
        match prediction.verdict {
            Verdict::Loads => assert_eq!(self.tried.errno, 0, "{}: {prediction:?}", self.name),
            Verdict::Fails { errno } => {
                assert_eq!(self.tried.errno, errno.0, "{}: {prediction:?}", self.name);
            }
            Verdict::Unknown => {
                let unknown = matches!(signature, SignatureCheck::Good { long_hash: true, .. });
                assert!(unknown && facts.policy.sha512.is_none(), "{}: {prediction:?}", self.name);
            }
        }
    }
}

async fn try_each(kernel: &Kernel, argument: &str, loads: &[(&str, Vec<u8>, bool)]) -> Vec<Judged> {
    let mut trial = Trial::new();
    for (_, file, _) in loads {
        trial.sequence([Load { file, parameters: "", flags: 0 }]);
    }
    let folder = tempfile::tempdir().unwrap();
    let outcomes = trial.run(kernel, &[argument], folder.path()).await.unwrap();
    let judged = loads.iter().zip(outcomes).map(|((name, file, loads), mut outcome)| {
        let name = format!("{name}, {}, {argument}", kernel.release);
        Judged { name, file: file.clone(), loads: *loads, tried: outcome.tried.remove(0) }
    });
    judged.collect()
}
