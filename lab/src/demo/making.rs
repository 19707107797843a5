//! What images are made of, and where: a repository with the driver's sources, a key, and a node that runs Jobs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tenon_api::module_image::ImagePhase;
use tenon_lab::certificates;
use tenon_lab::claim::comes_true_within;
use tenon_lab::git::GitServer;
use tenon_lab::host_node::ADDRESS;
use tenon_lab::journey::Journey;
use tenon_lab::state::State;
use tenon_lab::{Lab, forge};

use super::terminal::Terminal;
use super::watch::Watch;
use super::{VERSIONS, kubectl};

/// The driver's folder.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/drivers/simple-procfs-kmod");
/// For two kernels, with three emulated machines beside it. The first time, the toolkits come to the node.
const BUILT: Duration = Duration::from_mins(10);

/// The sources, the key, and the registry by the name that Jobs know it by.
#[derive(Debug)]
pub(super) struct Workshop {
    git: GitServer,
    pub(super) keys: PathBuf,
    pub(super) registry: String,
}

impl Workshop {
    /// Adds a node that runs Jobs, before the operator starts.
    pub(super) async fn open(lab: &mut Lab, terminal: &Terminal) -> anyhow::Result<Self> {
        let registry = forge::add(lab).await?;
        terminal.event(format!(
            "node {} runs a kubelet on this machine; the registry has the kernels' toolkits",
            forge::NODE
        ));
        let keys = lab.folder().join("keys");
        fs::create_dir_all(&keys).with_context(|| format!("create {}", keys.display()))?;
        certificates::make(&keys, certificates::RSA_2048, "1")?;
        let git = GitServer::start(lab.folder(), ADDRESS.into())?;
        Ok(Self { git, keys, registry })
    }

    /// By what the repository is cloned.
    pub(super) fn repository(&self) -> &str {
        self.git.uri()
    }

    /// Puts the sources into the repository, a tag for each version, and the key and its certificate into Secrets.
    pub(super) async fn fill(&self, lab: &Lab, terminal: &Terminal) -> anyhow::Result<()> {
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
        let file = |name: &str| read(&Path::new(SOURCES).join(name));
        let (makefile, code) = (file("Makefile")?, file("simple-procfs-kmod.c")?);
        for (version, _) in VERSIONS {
            let makefile = makefile.replace("VERSION := 1.0", &format!("VERSION := {version}"));
            let files = [
                ("simple-procfs-kmod/Makefile", makefile.as_str()),
                ("simple-procfs-kmod/simple-procfs-kmod.c", &code),
            ];
            self.git.commit(&files, &format!("v{version}"))?;
            terminal.event(format!("{} has v{version}", self.repository()));
        }
        for (name, entry, file) in
            [("signing-key", "key", "key.pem"), ("signing-cert", "cert", "certificate.pem")]
        {
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "default" },
                "stringData": { entry: read(&self.keys.join(file))? },
            });
            lab.plane().apply(&secret.to_string()).await?;
        }
        kubectl(lab, terminal, &["label", "node", forge::NODE, "example.com/builds=yes"]).await?;
        kubectl(lab, terminal, &["get", "secrets"]).await
    }
}

/// Waits until all images of the Module are there.
pub(super) async fn built(
    lab: &Lab,
    terminal: &Terminal,
    journey: &Journey,
    watch: &mut Watch,
    kernels: usize,
) -> anyhow::Result<()> {
    let client = lab.plane().client();
    comes_true_within(BUILT, "the images are built and signed", async || {
        let state = State::of(&client, journey.key()).await.map_err(|error| format!("{error:#}"))?;
        watch.tell(&state, terminal);
        let module = state.module.as_ref().and_then(|module| module.metadata.generation);
        let is_ready = |phase| phase == Some(ImagePhase::Ready);
        let current = state.images.iter().filter_map(|image| image.status.as_ref().zip(Some(image)));
        let ready = current.filter(|(status, image)| {
            status.resolved_from == image.metadata.generation && is_ready(status.phase)
        });
        // Images are of the Module's present settings once the Module says that it has looked at them.
        let seen = state.module.as_ref().and_then(|module| module.status.as_ref()?.observed_generation);
        match ready.count() {
            count if count == kernels && seen == module => Ok(()),
            count => Err(format!("{count} of {kernels} are ready")),
        }
    })
    .await?;
    Ok(())
}
