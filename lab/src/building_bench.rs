//! `tenon-lab bench-building`: images of one driver for one kernel, made in every way there is, by Jobs that a real kubelet runs on this
//! machine; from the moment when a Module is there until its image is proven. Bytes are those that pass between the registry and
//! everybody: the node, the Jobs, and the operator.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PropagationPolicy};
use serde_json::{Value, json};
use tenon_api::Module;
use tenon_api::module_image::{ImagePhase, ModuleImage};
use tenon_lab::git::GitServer;
use tenon_lab::host_node::ADDRESS;
use tenon_lab::kernel::Origin;
use tenon_lab::program_images::push_files;
use tenon_lab::{Lab, certificates, forge, wait};

use crate::weighing::{Scale, median};

const DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/drivers/simple-kmod");
const PACKAGE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/maker/testdata/simple-kmod-1.0-1.src.rpm");
const DKMS: &str =
    "PACKAGE_NAME=\"simple-kmod\"\nPACKAGE_VERSION=\"1.0\"\nBUILT_MODULE_NAME[0]=\"simple-kmod\"\n";
/// The way that comes first, whose image is signed alone in the end.
const DOCKERFILE: &str = "from a Dockerfile";
const VOLUME: &str = "shelf";
const NAMESPACE: &str = "default";
/// Also with a node that has nothing yet.
const MADE: Duration = Duration::from_mins(6);

/// How often, and where to put it.
#[derive(Debug, Args)]
pub(crate) struct BuildingBench {
    /// How often each image is made
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where to write the table
    #[arg(long, value_name = "PATH")]
    page: Option<PathBuf>,
}

/// What one image took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// From the Module to the image that is proven.
    time: Duration,
    bytes: u64,
}

/// A way to make an image.
struct Way {
    name: &'static str,
    /// What `container` of a Module says of it.
    container: Value,
}

pub(crate) async fn run(bench: &BuildingBench, say: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let site = Site::open(say).await?;
    let ways = site.ways();
    let Some(first) = ways.first() else { bail!("nothing is to be made") };
    // The node has neither the builder nor the toolkit yet.
    let cold = site.make(first, 0).await?;
    say(&format!("the first on a node: {:.1} s", cold.time.as_secs_f64()));
    let mut costs: Vec<(&str, Vec<Cost>)> = ways.iter().map(|way| (way.name, Vec::new())).collect();
    // What comes to the node with the first image of its kind is not counted again.
    for way in ways.iter().skip(1) {
        site.make(way, 0).await?;
    }
    for number in 1..=bench.runs {
        for (way, (_, costs)) in ways.iter().zip(&mut costs) {
            costs.push(site.make(way, number).await?);
        }
        say(&format!("run {number} of {}", bench.runs));
    }
    let page = page(first.name, cold, &costs);
    println!("{page}");
    if let Some(path) = &bench.page {
        fs::write(path, &page).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// A lab that makes images, whose registry is reached by the scale alone.
struct Site {
    lab: Lab,
    scale: Scale,
    git: GitServer,
    kernel: String,
}

impl Site {
    async fn open(say: &mut impl FnMut(&str)) -> anyhow::Result<Self> {
        let mut lab = Lab::start_without_operator().await?;
        let direct = forge::add(&mut lab).await?;
        let scale = Scale::start(ADDRESS.into(), &direct).await?;
        forge::go_by(&mut lab, scale.address())?;
        lab.start_operator().await?;
        let git = GitServer::start(lab.folder(), ADDRESS.into())?;
        let kernel = lab.supplies().kernel(Origin::Stable)?.release.clone();
        let site = Self { lab, scale, git, kernel };
        site.fill().await?;
        say("the registry has builder, toolkits and sources");
        site.boot().await
    }

    /// A node whose kernel everything is made for.
    async fn boot(mut self) -> anyhow::Result<Self> {
        let settings = self.lab.guest_settings("mill", Origin::Stable)?;
        self.lab.add_guest(settings).await?;
        let plane = self.lab.plane();
        // What is only signed is signed on a node that the Module selects; the guest has no kubelet.
        plane.kubectl(&["label", "node", "mill", forge::NODE, "driver=yes"]).await?;
        let full = r#"--patch={"status":{"allocatable":{"pods":"0"},"capacity":{"pods":"0"}}}"#;
        plane.kubectl(&["patch", "node", "mill", "--subresource=status", full]).await?;
        Ok(self)
    }

    /// The driver's sources, in every form; a key, and its certificate.
    async fn fill(&self) -> anyhow::Result<()> {
        let read = |name: &str| {
            fs::read_to_string(format!("{DRIVER}/{name}")).with_context(|| format!("read {name}"))
        };
        let (makefile, code) = (read("Makefile")?, read("simple-kmod.c")?);
        let files = [("Makefile", makefile.as_str()), ("simple-kmod.c", &code)];
        self.git.commit(&files, "v1")?;
        self.git.commit(&[files.as_slice(), &[("dkms.conf", DKMS)]].concat(), "v1-dkms")?;
        let package = fs::read(PACKAGE).with_context(|| format!("read {PACKAGE}"))?;
        let bytes = [
            ("Makefile", makefile.as_bytes()),
            ("simple-kmod.c", code.as_bytes()),
            ("simple-kmod.src.rpm", &package),
        ];
        push_files(&bytes, &format!("{}/sources:1", self.scale.address())).await?;
        self.fill_volume(&files).await?;
        let keys = self.lab.folder().join("keys");
        fs::create_dir_all(&keys).with_context(|| format!("create {}", keys.display()))?;
        certificates::make(&keys, certificates::RSA_2048, "1")?;
        for (name, entry, file) in
            [("signing-key", "key", "key.pem"), ("signing-cert", "cert", "certificate.pem")]
        {
            let text = fs::read_to_string(keys.join(file)).with_context(|| format!("read {file}"))?;
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": NAMESPACE },
                "stringData": { entry: text },
            });
            self.lab.plane().apply(&secret.to_string()).await?;
        }
        Ok(())
    }

    async fn fill_volume(&self, files: &[(&str, &str)]) -> anyhow::Result<()> {
        let folder = self.lab.folder().join("volume");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        for (name, content) in files {
            fs::write(folder.join(name), content).with_context(|| format!("write {name}"))?;
        }
        // Whoever runs this may have its files for itself.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("open {}", folder.display()))?;
        let size = json!({ "storage": "1Gi" });
        let spec = json!({ "accessModes": ["ReadOnlyMany"], "storageClassName": "" });
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": VOLUME },
            "spec": with(spec.clone(), json!({ "capacity": size, "hostPath": { "path": folder } })),
        });
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": VOLUME, "namespace": NAMESPACE },
            "spec": with(spec, json!({ "volumeName": VOLUME, "resources": { "requests": size } })),
        });
        self.lab.plane().apply(&volume.to_string()).await?;
        Ok(self.lab.plane().apply(&claim.to_string()).await?)
    }

    /// Every way; the image of the first is what others start from.
    fn ways(&self) -> Vec<Way> {
        let registry = self.scale.address();
        let toolkit = format!("{registry}/toolkit:${{KERNEL_FULL_VERSION}}");
        let dockerfile = format!(
            "ARG KERNEL_FULL_VERSION\nFROM {toolkit} AS build\nARG KERNEL_FULL_VERSION\n\
             COPY --from={registry}/sources:1 / /src/\n\
             RUN make -C /lib/modules/${{KERNEL_FULL_VERSION}}/build M=/src modules\n\
             FROM scratch\nARG KERNEL_FULL_VERSION\n\
             COPY --from=build /src/simple-kmod.ko /opt/lib/modules/${{KERNEL_FULL_VERSION}}/\n"
        );
        let dockerfile = json!({ "dockerfile": dockerfile });
        let git = |tag: &str| json!({ "source": { "git": { "uri": self.git.uri(), "ref": tag } } });
        let image = |more: Value| {
            let source = json!({ "image": { "reference": format!("{registry}/sources:1") } });
            json!({ "source": with(source, more) })
        };
        let build = |build: Value| {
            let placed = json!({
                "selector": { "kubernetes.io/hostname": forge::NODE }, "baseImageRegistryTLS": { "insecure": true },
            });
            json!({ "build": with(build, placed) })
        };
        let sign = |more: Value| {
            let sign = json!({
                "keySecret": { "name": "signing-key" }, "certSecret": { "name": "signing-cert" },
                "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/*.ko"],
            });
            json!({ "sign": with(sign, more) })
        };
        let signed = |container: Value| with(container, sign(json!({})));
        let unsigned = json!({
            "unsignedImage": self.image(&slug(DOCKERFILE), 0), "unsignedImageRegistryTLS": { "insecure": true },
        });
        [
            (DOCKERFILE, build(dockerfile.clone())),
            ("from a Dockerfile, and signed", signed(build(dockerfile))),
            ("from a git repository", build(git("v1"))),
            ("from a git repository, and signed", signed(build(git("v1")))),
            ("from a git repository with a `dkms.conf`", build(git("v1-dkms"))),
            ("from an image that holds sources", build(image(json!({})))),
            ("from a volume with sources", build(json!({ "source": { "claim": { "name": VOLUME } } }))),
            ("from a source RPM", build(image(json!({ "path": "simple-kmod.src.rpm" })))),
            ("signed alone, files by a glob", sign(unsigned)),
        ]
        .map(|(name, container)| Way { name, container })
        .into()
    }

    fn image(&self, name: &str, number: usize) -> String {
        format!("{}/{name}:{number}-${{KERNEL_FULL_VERSION}}", self.scale.address())
    }

    /// Has an image made in that way, and says what it took.
    async fn make(&self, way: &Way, number: usize) -> anyhow::Result<Cost> {
        let name = slug(way.name);
        let named = json!({
            "registryTLS": { "insecure": true },
            "kernelMappings": [{ "literal": self.kernel, "containerImage": self.image(&name, number) }],
            "modprobe": { "moduleName": "simple_kmod" },
        });
        let container = with(way.container.clone(), named);
        let module = json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": { "selector": { "driver": "yes" }, "moduleLoader": { "container": container } },
        });
        self.scale.settle().await?;
        let (before, begun) = (self.scale.bytes(), Instant::now());
        self.lab.plane().apply(&module.to_string()).await?;
        self.is_proven(&name).await?;
        let time = begun.elapsed();
        self.scale.settle().await?;
        let bytes = self.scale.bytes() - before;
        self.forget(&name).await?;
        Ok(Cost { time, bytes })
    }

    async fn is_proven(&self, name: &str) -> anyhow::Result<()> {
        let images: Api<ModuleImage> = Api::namespaced(self.lab.plane().client(), NAMESPACE);
        let mut instead = String::new();
        let proven = wait::until("the image is proven", MADE, async || {
            let all = images.list(&ListParams::default()).await.ok()?;
            let status = all.items.into_iter().find(|image| image.spec.module == name)?.status?;
            instead = format!("{status:?}");
            (status.phase == Some(ImagePhase::Ready)).then_some(())
        });
        let proven = proven.await;
        proven.with_context(|| format!("{name}: {instead}"))
    }

    /// The driver is to be out of the way of the next.
    async fn forget(&self, name: &str) -> anyhow::Result<()> {
        let modules: Api<Module> = Api::namespaced(self.lab.plane().client(), NAMESPACE);
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        modules.delete(name, &params).await?;
        let gone = wait::until("the Module is gone", MADE, async || {
            matches!(modules.get_opt(name).await, Ok(None)).then_some(())
        });
        Ok(gone.await?)
    }
}

/// An object with the fields of another as well.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

/// A way's name as objects and repositories are called.
fn slug(name: &str) -> String {
    let letters =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(letters).collect();
    name.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

fn page(first: &str, cold: Cost, costs: &[(&str, Vec<Cost>)]) -> String {
    let runs = costs.iter().map(|(_, costs)| costs.len()).max().unwrap_or_default();
    let mut page = format!(
        "# What it costs to make an image in the cluster\n\n\
         Written by `make bench`; do not edit. One driver for one kernel, compiled, packed, published and proven in every way: seconds from\n\
         the Module to an image that is `Ready`, with Jobs under a real kubelet on this machine, which has no more than the builder, a\n\
         toolkit and the sources to fetch, from a registry on the same machine. Bytes are those on the way to and from the registry, of the\n\
         node, of the Job and of the operator together. The middle one of {runs} runs each, in turns; in the first row the node has nothing\n\
         yet.\n\n| made | seconds | bytes |\n|---|---|---|\n"
    );
    let mut row = |name: &str, time: Duration, bytes: u64| {
        let _ = writeln!(page, "| {name} | {:.1} | {bytes} |", time.as_secs_f64());
    };
    row(&format!("{first}, the first on a node"), cold.time, cold.bytes);
    for (name, costs) in costs {
        let time = median(costs.iter().map(|cost| cost.time)).unwrap_or_default();
        row(name, time, median(costs.iter().map(|cost| cost.bytes)).unwrap_or_default());
    }
    page
}
