//! What a build needs, gathered as a Job has it gathered, against a registry in this process.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::path::PathBuf;

use tenon_api::gather::{Gathering, Origin, Package, Wanted};
use tenon_api::task::{Compiled, Place, Report, Source, Task, Trouble};
use tenon_image::registry::{Proxies, Transport};
use tenon_image::testing::{TestRegistry, layer, module};
use tenon_maker::gather::{Mounts, run};
use tenon_maker::task;

const KERNEL: &str = "6.1.0-9-test";
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/simple-kmod-1.0-1.src.rpm");

struct Bench {
    registry: TestRegistry,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let registry = TestRegistry::start().await.unwrap();
        let sources = layer(&[("driver/Makefile", b"obj-m := a.o".as_slice()), ("driver/a.c", b"int a;")]);
        registry.put_image("sources", "1", "amd64", &[sources]);
        let bench = Self { registry, folder: tempfile::tempdir().unwrap() };
        for folder in ["work", "claims/0", "pull/0"] {
            fs::create_dir_all(bench.at(folder)).unwrap();
        }
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at("work").join(name)).unwrap()
    }

    fn place(&self, name: &str) -> Place {
        let image = format!("{}/{name}", self.registry.host());
        Place { image, plain_http: true, skip_verify: false, authority: None }
    }

    fn image(&self, name: &str) -> Origin {
        Origin::Image { place: self.place(name), credentials: None }
    }

    async fn gather(&self, files: Vec<Wanted>, package: Option<Package>) -> Result<Vec<String>, Report> {
        let gathering = Gathering { architecture: "amd64".to_owned(), files, package };
        let text = serde_json::to_string(&gathering).unwrap();
        let mounts = Mounts { pull: self.at("pull"), claims: self.at("claims"), work: self.at("work") };
        let mut told = Vec::new();
        let done =
            run(&text, &Transport::new(Proxies::default()), &mounts, &mut |line| told.push(line)).await;
        done.map(|()| told)
    }
}

fn wanted(from: Origin, path: &str, to: &str) -> Wanted {
    Wanted { from, path: path.to_owned(), otherwise: None, to: to.to_owned() }
}

fn trouble(done: Result<Vec<String>, Report>) -> (Trouble, String) {
    match done {
        Err(Report::Failed { trouble, message }) => (trouble, message.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sources_come_from_an_image_that_has_no_program() {
    let bench = Bench::new().await;
    let all = || vec![wanted(bench.image("sources:1"), "", "source")];
    let told = bench.gather(all(), None).await.unwrap();
    assert!(told[0].contains("2 files"), "{told:?}");
    assert_eq!(bench.text("source/driver/a.c"), "int a;");
    // Of a container that is started again in the same pod.
    fs::write(bench.at("work/source/left"), "").unwrap();
    bench.gather(all(), None).await.unwrap();
    assert!(!bench.at("work/source/left").exists());
}

/// What a Job has made has what is compiled against it, where the operator says that it is.
#[tokio::test]
async fn symbols_of_what_was_compiled_reach_the_next_build() {
    let bench = Bench::new().await;
    let modules = bench.at("work/out/opt/lib/modules").join(KERNEL);
    fs::create_dir_all(&modules).unwrap();
    fs::write(modules.join("dummy.ko"), module(62, "dummy", KERNEL)).unwrap();
    fs::write(modules.join("Module.symvers"), "0x1\tshared\tdummy\tEXPORT_SYMBOL\n").unwrap();
    let compiled = Compiled { dir_name: "/opt".to_owned(), firmware_path: None };
    let text = "sha256:0".to_owned();
    let made = Task {
        from: Source::Compiled(compiled),
        to: bench.place("base:1"),
        made_from: text.clone(),
        request: text,
        sign: None,
        trial: false,
    };
    let at = |name: &str| bench.at(name);
    let mounts =
        task::Mounts { key: at("key"), certificate: at("cert"), registry: at("registry"), work: at("work") };
    let made = serde_json::to_string(&made).unwrap();
    let report = task::run(Some(&made), &Transport::new(Proxies::default()), &mounts).await;
    assert!(matches!(report, Report::Made { .. }), "{report:?}");

    fs::write(bench.at("claims/0/note"), "a note").unwrap();
    let symvers = format!("/opt/lib/modules/{KERNEL}/Module.symvers");
    let files = vec![
        wanted(bench.image("base:1"), &symvers, "artifacts/base/Module.symvers"),
        wanted(Origin::Claim("0".to_owned()), "/note", "artifacts/note"),
    ];
    bench.gather(files, None).await.unwrap();
    assert!(bench.text("artifacts/base/Module.symvers").contains("shared"));
    assert_eq!(bench.text("artifacts/note"), "a note");
}

#[tokio::test]
async fn what_is_not_in_one_place_is_taken_from_the_other() {
    let bench = Bench::new().await;
    let either = |path: &str, otherwise: &str| Wanted {
        otherwise: Some(otherwise.to_owned()),
        ..wanted(bench.image("sources:1"), path, "artifacts/a")
    };
    let taken = async |wanted| {
        bench.gather(vec![wanted], None).await.unwrap();
        bench.text("artifacts/a")
    };
    assert_eq!(taken(either("/driver+/a.c", "/driver/a.c")).await, "int a;");
    assert_eq!(taken(either("/driver/a.c", "/driver/Makefile")).await, "int a;", "the first goes before");
    let (word, message) = trouble(bench.gather(vec![either("/nowhere+", "/nowhere")], None).await);
    assert_eq!(word, Trouble::SourceInvalid);
    assert!(message.contains("/nowhere+"), "{message}");
}

#[tokio::test]
async fn a_source_package_comes_from_wherever_sources_do() {
    let bench = Bench::new().await;
    let package = fs::read(PACKAGE).unwrap();
    bench.registry.put_image("packages", "1", "amd64", &[layer(&[("a/b.src.rpm", package.as_slice())])]);
    let unpack = Package { path: "source/a/b.src.rpm".to_owned(), patched_by_user: false };
    bench.gather(vec![wanted(bench.image("packages:1"), "/", "source")], Some(unpack)).await.unwrap();
    assert!(bench.text("unpacked/Makefile").contains("obj-m"));
    let unpack = Package { path: "source/driver/Makefile".to_owned(), patched_by_user: false };
    let (word, message) =
        trouble(bench.gather(vec![wanted(bench.image("sources:1"), "/", "source")], Some(unpack)).await);
    assert_eq!(word, Trouble::SourceInvalid, "{message}");
    assert!(message.contains("source/driver/Makefile"), "{message}");
}

#[tokio::test]
async fn what_is_missing_or_evil_is_named() {
    let bench = Bench::new().await;
    let one =
        async |from, path: &str| trouble(bench.gather(vec![wanted(from, path, "artifacts/a")], None).await);
    assert_eq!(one(bench.image("nobody:1"), "/a").await.0, Trouble::ImageAbsent);
    let (word, message) = one(bench.image("sources:1"), "/driver/b.c").await;
    assert_eq!(word, Trouble::SourceInvalid);
    assert!(message.contains("/driver/b.c") && message.contains("sources:1"), "{message}");
    // The credentials are one folder away.
    fs::write(bench.at("pull/0/.dockerconfigjson"), "{}").unwrap();
    std::os::unix::fs::symlink(bench.at("pull/0/.dockerconfigjson"), bench.at("claims/0/link")).unwrap();
    let (word, message) = one(Origin::Claim("0".to_owned()), "link").await;
    assert_eq!(word, Trouble::SourceInvalid);
    assert!(message.contains("link"), "{message}");
    assert!(!bench.at("work/artifacts/a").exists());
    assert_eq!(one(Origin::Claim("0".to_owned()), "../pull/0").await.0, Trouble::SourceInvalid);
    let transport = Transport::new(Proxies::default());
    let done = run("{\"brew\":1}", &transport, &Mounts::default(), &mut |_| {}).await;
    assert!(matches!(done, Err(Report::Failed { trouble: Trouble::Failed, .. })));
}
