//! Tasks as a Job is given them, against a registry in this process.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::path::Path;

use tenon_api::module::SignatureHash;
use tenon_api::task::{Algorithm, Compiled, Place, Report, SignTask, Source, Task, Trouble};
use tenon_image::registry::{Proxies, Transport};
use tenon_image::testing::{Seen, TestRegistry, layer, module};
use tenon_maker::task::{Mounts, run};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sign/testdata");

/// A registry with `drivers:1`, and what a Job has mounted.
struct Bench {
    registry: TestRegistry,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let registry = TestRegistry::start().await.unwrap();
        let dummy = module(62, "dummy", "6.1.0-9-test");
        let base = layer(&[("usr/lib/large", &vec![0; 1_000_000])]);
        let files =
            layer(&[("opt/lib/modules/6.1.0-9-test/dummy.ko", dummy.as_slice()), ("opt/a.txt", b"text")]);
        registry.put_image("drivers", "1", "amd64", &[base, files]);
        let bench = Self { registry, folder: tempfile::tempdir().unwrap() };
        for folder in ["key", "cert", "work"] {
            fs::create_dir(bench.folder.path().join(folder)).unwrap();
        }
        bench.mount("key/key", "rsa.key");
        bench.mount("cert/cert", "rsa.pem");
        bench
    }

    fn mount(&self, to: &str, file: &str) {
        fs::copy(Path::new(KEYS).join(file), self.folder.path().join(to)).unwrap();
    }

    fn unmount(&self, path: &str) {
        fs::remove_file(self.folder.path().join(path)).unwrap();
    }

    fn mounts(&self) -> Mounts {
        let at = |name: &str| self.folder.path().join(name);
        Mounts { key: at("key"), certificate: at("cert"), registry: at("registry"), work: at("work") }
    }

    fn place(&self, name: &str) -> Place {
        Place {
            image: format!("{}/{name}", self.registry.host()),
            plain_http: true,
            skip_verify: false,
            authority: None,
        }
    }

    fn task(&self, files: &[&str]) -> Task {
        Task {
            from: Source::Image(self.place("drivers:1")),
            to: self.place("signed:1"),
            made_from: "sha256:0".to_owned(),
            request: "sha256:1".to_owned(),
            sign: Some(SignTask {
                files: files.iter().map(|file| (*file).to_owned()).collect(),
                hash: SignatureHash::Sha256,
                lacking: Vec::new(),
            }),
            trial: false,
        }
    }

    /// The task by the digest that the image has now, as the operator hands it over.
    fn pinned(&self) -> Task {
        let manifest = self.registry.manifest("drivers", "1").unwrap();
        let digest = tenon_order::Digest::of(&manifest);
        let from = Source::Image(self.place(&format!("drivers:1@{digest}")));
        Task { from, made_from: digest.to_string(), ..self.task(&["/opt/lib/modules/*/*.ko"]) }
    }

    /// A task for what was compiled, which is one module.
    fn compiled(&self) -> Task {
        let modules = self.folder.path().join("work/out/opt/lib/modules/6.1.0-9-test");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("dummy.ko"), module(62, "dummy", "6.1.0-9-test")).unwrap();
        let compiled = Compiled { dir_name: "/opt".to_owned(), firmware_path: Some("/firmware".to_owned()) };
        Task { from: Source::Compiled(compiled), ..self.task(&["/opt/lib/modules/*/*.ko"]) }
    }

    async fn run(&self, task: Task) -> Report {
        let text = serde_json::to_string(&task).unwrap();
        run(Some(&text), &Transport::new(Proxies::default()), &self.mounts()).await
    }

    fn writes(&self) -> usize {
        let is_write = |seen: &&Seen| !["GET", "HEAD"].contains(&seen.method.as_str());
        self.registry.seen().iter().filter(is_write).count()
    }
}

fn digest(report: &Report) -> &str {
    match report {
        Report::Made { digest, .. } => digest,
        Report::Tried { message } | Report::Failed { message, .. } => panic!("{message}"),
    }
}

fn trouble(report: Report) -> (Trouble, String) {
    match report {
        Report::Tried { message } => panic!("{message}"),
        Report::Failed { trouble, message } => (trouble, message.to_string()),
        Report::Made { digest, .. } => panic!("{digest} was made"),
    }
}

#[tokio::test]
async fn an_image_is_signed_once_and_known_again() {
    let bench = Bench::new().await;
    let first = bench.run(bench.pinned()).await;
    let manifest = bench.registry.manifest("signed", "1").unwrap();
    assert_eq!(digest(&first), tenon_order::Digest::of(&manifest).to_string());
    let writes = bench.writes();
    assert_eq!(digest(&bench.run(bench.pinned()).await), digest(&first));
    assert_eq!(bench.writes(), writes, "a second time nothing is written");
}

#[tokio::test]
async fn another_certificate_or_another_request_makes_another_image() {
    let bench = Bench::new().await;
    let first = bench.run(bench.pinned()).await;
    bench.mount("key/key", "p384.key");
    bench.mount("cert/cert", "p384.pem");
    let second = bench.run(bench.pinned()).await;
    assert_ne!(digest(&second), digest(&first));
    let third = bench.run(Task { request: "sha256:2".to_owned(), ..bench.pinned() }).await;
    assert_ne!(digest(&third), digest(&second));
    let unsigned = bench.run(Task { sign: None, ..bench.pinned() }).await;
    assert_ne!(digest(&unsigned), digest(&third));
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_published() {
    let bench = Bench::new().await;
    let absent = trouble(bench.run(bench.task(&["/opt/absent.ko"])).await);
    assert_eq!(absent.0, Trouble::ImageInvalid);
    assert!(absent.1.contains("/opt/absent.ko"), "{}", absent.1);
    assert_eq!(trouble(bench.run(bench.task(&["/opt/a.txt"])).await).0, Trouble::ImageInvalid);
    let elsewhere = Task { from: Source::Image(bench.place("nobody:1")), ..bench.task(&["/opt/a.ko"]) };
    assert_eq!(trouble(bench.run(elsewhere).await).0, Trouble::ImageAbsent);

    bench.mount("cert/cert", "p384.pem");
    let (word, message) = trouble(bench.run(bench.pinned()).await);
    assert_eq!(word, Trouble::SecretMalformed);
    assert!(message.contains("does not belong to the certificate"), "{message}");
    bench.unmount("cert/cert");
    let (word, message) = trouble(bench.run(bench.pinned()).await);
    assert_eq!(word, Trouble::SecretMissing);
    assert!(message.contains("sign.certSecret") && message.contains("\"cert\""), "{message}");
    assert!(bench.registry.manifest("signed", "1").is_none());
}

#[tokio::test]
async fn what_somebody_else_has_made_is_not_written_over() {
    let bench = Bench::new().await;
    bench.registry.put_image("signed", "1", "arm64", &[layer(&[("opt/theirs", b"theirs".as_slice())])]);
    let before = bench.registry.manifest("signed", "1");
    let (word, message) = trouble(bench.run(bench.pinned()).await);
    assert_eq!(word, Trouble::NotOurs);
    assert!(message.contains("signed:1"), "{message}");
    assert_eq!(bench.registry.manifest("signed", "1"), before);
}

#[tokio::test]
async fn what_was_compiled_is_packed_signed_and_published() {
    let bench = Bench::new().await;
    fs::create_dir_all(bench.folder.path().join("work/out/firmware")).unwrap();
    fs::write(bench.folder.path().join("work/out/firmware/a.bin"), "firmware").unwrap();
    let task = bench.compiled();
    let Report::Made { digest, message, fresh: true } = bench.run(task).await else {
        panic!("it was not made")
    };
    let manifest = bench.registry.manifest("signed", "1").unwrap();
    assert_eq!(digest, tenon_order::Digest::of(&manifest).to_string());
    assert!(message.to_string().starts_with("1 modules signed"), "{message}");
}

#[tokio::test]
async fn a_trial_does_all_but_publish() {
    let bench = Bench::new().await;
    let reports = [
        bench.run(Task { trial: true, ..bench.pinned() }).await,
        bench.run(Task { trial: true, ..bench.compiled() }).await,
        bench.run(Task { trial: true, sign: None, from: Source::Built, ..bench.pinned() }).await,
    ];
    let told = |report: &Report| match report {
        Report::Tried { message } => message.to_string(),
        other => format!("{other:?}"),
    };
    assert!(told(&reports[0]).contains("modules signed"), "{reports:?}");
    assert!(told(&reports[1]).starts_with("1 modules signed"), "{reports:?}");
    // What does not succeed is said here as well as anywhere.
    assert!(matches!(&reports[2], Report::Failed { trouble: Trouble::ImageInvalid, .. }), "{reports:?}");
    let unfit = bench.task(&["/opt/none.ko"]);
    let unfit = Task { trial: true, from: bench.pinned().from, ..unfit };
    assert_eq!(trouble(bench.run(unfit).await).0, Trouble::ImageInvalid);
    assert!(bench.registry.manifest("signed", "1").is_none());
    assert_eq!(bench.writes(), 0, "nothing was sent");
}

#[tokio::test]
async fn what_was_built_is_published_as_it_is_where_nothing_is_to_be_signed() {
    let bench = Bench::new().await;
    // What compiles leaves what a builder leaves, once it is packed.
    digest(&bench.run(bench.compiled()).await);
    let written = bench.folder.path().join("work");
    fs::rename(written.join("packed"), written.join("image")).unwrap();
    let unsigned = Task { from: Source::Built, sign: None, to: bench.place("plain:1"), ..bench.compiled() };
    let report = bench.run(unsigned).await;
    let manifest = bench.registry.manifest("plain", "1").unwrap();
    assert_eq!(digest(&report), tenon_order::Digest::of(&manifest).to_string());
    let nothing = Bench::new().await;
    let (word, message) = trouble(nothing.run(Task { from: Source::Built, ..nothing.pinned() }).await);
    assert_eq!(word, Trouble::ImageInvalid, "{message}");
}

/// Whoever writes the sources has the key at hand, one directory away.
#[tokio::test]
async fn a_link_to_the_key_is_not_packed() {
    use std::os::unix::fs::symlink;
    for link in ["work/out/firmware/key.bin", "work/out/opt/lib/modules/6.1.0-9-test/deep", "work/out"] {
        let bench = Bench::new().await;
        let task = bench.compiled();
        fs::create_dir_all(bench.folder.path().join("work/out/firmware")).unwrap();
        let link = bench.folder.path().join(link);
        if link.is_dir() {
            fs::rename(&link, bench.folder.path().join("work/elsewhere")).unwrap();
            symlink("elsewhere", &link).unwrap();
        } else {
            symlink(bench.folder.path().join("key/key"), &link).unwrap();
        }
        let (word, message) = trouble(bench.run(task).await);
        assert_eq!(word, Trouble::ImageInvalid, "{message}");
        assert!(message.contains("neither a file nor a directory"), "{message}");
        assert!(bench.registry.manifest("signed", "1").is_none());
    }
}

#[tokio::test]
async fn what_the_kernel_could_not_verify_is_not_made() {
    let bench = Bench::new().await;
    let without = |algorithm, hash| {
        let task = bench.pinned();
        let sign = task.sign.clone().map(|sign| SignTask { lacking: vec![algorithm], hash, ..sign });
        Task { sign, ..task }
    };
    let refused = async |task, words: &str| {
        let (word, message) = trouble(bench.run(task).await);
        assert_eq!(word, Trouble::KernelRefuses);
        assert!(message.contains(words), "{message}");
        assert!(bench.registry.manifest("signed", "1").is_none());
    };
    refused(without(Algorithm::Sha512, SignatureHash::Sha384), "set sign.hash to sha256").await;
    bench.mount("key/key", "p384.key");
    bench.mount("cert/cert", "p384.pem");
    refused(without(Algorithm::Ecdsa, SignatureHash::Sha256), "without ECDSA").await;
    digest(&bench.run(without(Algorithm::Sha512, SignatureHash::Sha256)).await);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_never_quoted() {
    let bench = Bench::new().await;
    let secret = "TOPSECRETKEYMATERIAL";
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n");
    fs::write(bench.folder.path().join("key/key"), pem).unwrap();
    let (word, message) = trouble(bench.run(bench.pinned()).await);
    assert_eq!(word, Trouble::SecretMalformed);
    assert!(!message.contains(secret) && message.contains("sign.keySecret"), "{message}");
}

#[tokio::test]
async fn no_task_or_one_of_another_version_is_said_to_be_so() {
    let transport = Transport::new(Proxies::default());
    for task in [None, Some("{\"sign\":{}}"), Some("{\"brew\":{}}"), Some("")] {
        let (word, message) = trouble(run(task, &transport, &Mounts::default()).await);
        assert_eq!(word, Trouble::Failed);
        assert!(message.contains("TENON_TASK"), "{message}");
    }
}
