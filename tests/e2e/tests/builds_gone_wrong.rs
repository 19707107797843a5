//! Builds that hang, flood, fill, pry, or lose their node, and builds that reach nothing but a proxy: by Jobs that a real kubelet runs,
//! with the shipped builder. Whatever they do, there are never two at once, and the ModuleImage says what is wrong.
//!
//! The Module's node is an object alone: its kernel is what counts. Nothing is compiled, the driver is copied from an image.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what a test is made of may fail like the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::message::MAX_BYTES;
use tenon_api::module_image::{ImagePhase, ModuleImage, ModuleImageStatus};
use tenon_api::reasons;
use tenon_lab::claim::comes_true_within;
use tenon_lab::command::ShownOnPanic;
use tenon_lab::drivers::Driver;
use tenon_lab::forward_proxy::ForwardProxy;
use tenon_lab::git::GitServer;
use tenon_lab::host_node::ADDRESS;
use tenon_lab::images::{self, Destination};
use tenon_lab::program_images::{self, ProgramImage};
use tenon_lab::programs::{self, Program};
use tenon_lab::registry::User;
use tenon_lab::{Lab, certificates, forge};
use tokio::task::JoinSet;

/// The Module's only node.
const NODE: &str = "mill";
/// The first build brings the builder to the forge.
const SOON: Duration = Duration::from_mins(4);
/// How often it is looked how many pods build.
const LOOK: Duration = Duration::from_millis(100);
/// What a program may need that handles hundreds of megabytes and holds none of them.
const MODEST: u64 = 64 * 1024;
/// The volume's limit, and what the build writes to it.
const FULL: &str = "200Mi";
const MUCH: &str = "600";

/// Who pulls. The registry lets everybody in; the password is to be found nowhere.
const PULLER: &str = "the password of who pulls";
/// The names by which only the proxy knows the registry and the git server.
const HUB: &str = "hub.invalid:5000";
const CODE: &str = "code.invalid";
const GIT_USER: (&str, &str) = ("vendor", "the password of who clones");

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

/// Tries what a build may not do, and says of each whether it was refused; prints what it finds in other processes' memory and roots.
fn pry(kernel: &str) -> String {
    format!(
        r#"set +e
try() {{ what=$1; shift; if said=$("$@" 2>&1); then echo "GOT $what: $said"; else echo "REFUSED $what: $said"; fi; }}
for name in cat ls true umount; do [ -e /bin/$name ] || ln -s sh /bin/$name; done 2>/dev/null
here=$PWD
try key cat /run/tenon/key/key
try credentials cat /run/tenon/registry/.dockerconfigjson
try git cat /run/tenon/git/password
try token cat /var/run/secrets/kubernetes.io/serviceaccount/token
try mount mount -t tmpfs none "$here"
try mknod mknod "$here/disk" b 254 0
try insmod insmod {}
try sysctl sh -c 'cat /proc/sys/kernel/printk >/proc/sys/kernel/printk'
try memory head -c 1 /dev/mem
try kmsg head -c 1 /dev/kmsg
try nsenter nsenter -t 1 -m true
echo "block devices: $(find /dev -type b 2>/dev/null | wc -l)"
for process in /proc/[0-9]*; do
	cat $process/environ 2>/dev/null | tr '\0' '\n'
	chroot $process/root /bin/umount /run/tenon/registry 2>/dev/null && echo "GOT umount in $process"
	find $process/root/run/tenon $process/root/run/secrets $process/root/var/lib/kubelet -type f -exec cat {{}} + 2>/dev/null
done
echo "that is all"
"#,
        format_args!("$(find / -name simple-kmod.ko 2>/dev/null | grep {kernel} | head -n 1)"),
    )
}

/// What [`pry`] has to be refused, wherever it runs.
const REFUSED: [&str; 11] =
    ["key", "credentials", "git", "token", "mount", "mknod", "insmod", "sysctl", "memory", "kmsg", "nsenter"];

/// A lab with a forge, and the object of a node.
struct Site {
    lab: Lab,
    registry: String,
    kernel: String,
    keys: tempfile::TempDir,
    crowds: Crowds,
}

impl Site {
    async fn start() -> Self {
        let mut lab = Lab::start_without_operator().await.unwrap();
        let registry = forge::add(&mut lab).await.unwrap();
        lab.start_operator().await.unwrap();
        let keys = tempfile::tempdir().unwrap();
        certificates::make(keys.path(), certificates::RSA_2048, "1").unwrap();
        let kernel = lab.supplies().kernels()[0].release.clone();
        let crowds = Crowds::watch(lab.plane().client());
        let site = Self { lab, registry, kernel, keys, crowds };
        site.node().await;
        site.images().await;
        site.secrets().await;
        site.neighbour().await;
        site
    }

    async fn node(&self) {
        let nodes: Api<Node> = Api::all(self.client());
        let node = json!({ "metadata": { "name": NODE, "labels": { "driver": "yes" } } });
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let info = json!({
            "architecture": "amd64", "bootID": "b-1", "kernelVersion": self.kernel, "operatingSystem": "linux",
            "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
            "osImage": "", "systemUUID": "",
        });
        let status = json!({ "status": { "nodeInfo": info, "conditions": [ready("True")] } });
        nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// What is built on: a shell with every tool, and the driver.
    async fn images(&self) {
        let tool = ProgramImage {
            binary: &self.lab.supplies().busybox,
            program: "/bin/sh",
            arguments: &[],
            labels: BTreeMap::new(),
        };
        program_images::push(&tool, &format!("{}/tool:1", self.registry)).await.unwrap();
        let driver = images::content(&self.lab, Driver::SimpleKmod, "1.0").await.unwrap();
        let to = Destination { registry: &self.registry, name: "driver:1", user: None };
        images::push(&self.lab, &driver, to).await.unwrap();
    }

    async fn secrets(&self) {
        let file = |name: &str| fs::read_to_string(self.keys.path().join(name)).unwrap();
        let user = User { name: "puller".to_owned(), password: PULLER.to_owned() };
        let config = |registry: &str| user.docker_config(registry);
        let secrets = [
            ("signing-key", "Opaque", json!({ "key": file("key.pem") })),
            ("signing-cert", "Opaque", json!({ "cert": file("certificate.pem") })),
            (
                "puller",
                "kubernetes.io/dockerconfigjson",
                json!({ ".dockerconfigjson": config(&self.registry) }),
            ),
            ("hub", "kubernetes.io/dockerconfigjson", json!({ ".dockerconfigjson": config(HUB) })),
            ("git", "kubernetes.io/basic-auth", json!({ "username": GIT_USER.0, "password": GIT_USER.1 })),
        ];
        for (name, kind, data) in secrets {
            self.apply(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "default" },
                "type": kind, "stringData": data,
            }))
            .await;
        }
    }

    /// Somebody else's pod on the node that builds.
    async fn neighbour(&self) {
        self.apply(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "neighbour", "namespace": "default" },
            "spec": {
                "nodeSelector": { "kubernetes.io/hostname": forge::NODE },
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "works", "image": format!("{}/tool:1", self.registry),
                    "command": ["/bin/sh", "-c", "while sleep 1; do date; done"],
                }],
            },
        }))
        .await;
    }

    fn client(&self) -> Client {
        self.lab.plane().client()
    }

    async fn apply(&self, object: Value) {
        self.lab.plane().apply(&object.to_string()).await.unwrap();
    }

    /// A Module whose image is built so, on the forge.
    async fn module(&self, name: &str, registry: &str, secret: &str, build: Value, sign: bool) {
        let mut build = build;
        build["selector"] = json!({ "kubernetes.io/hostname": forge::NODE });
        let mut container = json!({
            "build": build,
            "kernelMappings": [{
                "regexp": "^.+$",
                "containerImage": format!("{registry}/{name}:1-${{KERNEL_FULL_VERSION}}"),
            }],
            "modprobe": { "moduleName": "simple_kmod" },
        });
        if sign {
            container["sign"] = json!({
                "keySecret": { "name": "signing-key" }, "certSecret": { "name": "signing-cert" },
                "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/*.ko"],
            });
        }
        self.apply(json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "selector": { "driver": "yes" },
                "imageRepoSecret": { "name": secret },
                "moduleLoader": { "container": container },
            },
        }))
        .await;
    }

    /// The Module `simple`, by a Dockerfile whose shell does this before the driver is copied.
    async fn simple(&self, script: &str, also: Value) {
        let mut build = json!({ "dockerfile": dockerfile(&self.registry, script) });
        for (field, value) in also.as_object().into_iter().flatten() {
            build[field] = value.clone();
        }
        self.module("simple", &self.registry, "puller", build, true).await;
    }

    async fn status_where(
        &self,
        module: &str,
        claim: &str,
        is_so: impl Fn(&ModuleImageStatus) -> bool,
    ) -> ModuleImageStatus {
        let images: Api<ModuleImage> = Api::namespaced(self.client(), "default");
        let begun = Instant::now();
        let claim = format!("{module}: {claim}");
        let status = comes_true_within(SOON, &claim, async || {
            let all = images.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let meant = all.items.into_iter().find(|image| image.spec.module == module);
            let status = meant.and_then(|image| image.status).unwrap_or_default();
            if is_so(&status) { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
        .unwrap();
        println!("{claim} after {:.1?}: {}", begun.elapsed(), message(&status));
        status
    }

    async fn made(&self, module: &str) -> ModuleImageStatus {
        let made = |status: &ModuleImageStatus| {
            status.phase == Some(ImagePhase::Ready) && status.reason.as_deref() == Some(reasons::IMAGE_EXISTS)
        };
        self.status_where(module, "the image is there", made).await
    }

    /// Waits until the build has failed, with these words in the message.
    async fn failed(&self, module: &str, words: &str) -> ModuleImageStatus {
        let failed = |status: &ModuleImageStatus| {
            status.reason.as_deref() == Some(reasons::BUILD_FAILED) && message(status).contains(words)
        };
        self.status_where(module, &format!("it is told that {words:?}"), failed).await
    }

    /// The pods that make a Module's image.
    async fn pods(&self, module: &str) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client(), "default");
        let of_module =
            format!("app.kubernetes.io/managed-by=tenon,kmm.node.kubernetes.io/module.name={module}");
        pods.list(&ListParams::default().labels(&of_module)).await.unwrap().items
    }

    /// A pod of a Module that is none of these, once it builds.
    async fn building(&self, module: &str, former: &[Pod]) -> Pod {
        let known: BTreeSet<_> = former.iter().filter_map(kube::ResourceExt::uid).collect();
        comes_true_within(SOON, format!("{module}: another pod builds"), async || {
            let pods = self.pods(module).await;
            let new = pods.into_iter().find(|pod| pod.uid().is_none_or(|uid| !known.contains(&uid)));
            let new = new.ok_or("there is none")?;
            if builds(&new) { Ok(new) } else { Err(format!("{:?}", new.status)) }
        })
        .await
        .unwrap()
    }

    /// `kubectl tenon logs MODULE`.
    async fn logs_command(&self, module: &str) -> Command {
        let program = tokio::task::spawn_blocking(|| programs::program(Program::Cli)).await.unwrap().unwrap();
        let mut command = Command::new(program);
        command.args(["logs", module, "-n", "default"]).env("KUBECONFIG", self.lab.plane().kubeconfig());
        command
    }

    async fn logs(&self, module: &str) -> String {
        let output = self.logs_command(module).await.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What nobody may find: parts of the key, passwords, and the kubelet's own access to the cluster.
    fn secrets_of_others(&self) -> Vec<String> {
        let pem = fs::read_to_string(self.keys.path().join("key.pem")).unwrap();
        let config = self.lab.plane().folder().join(forge::NODE).join("kubelet.kubeconfig");
        let config = fs::read_to_string(config).unwrap();
        let at = config.find("client-key-data").unwrap();
        let access = config[at..].split('"').nth(2).unwrap().to_owned();
        assert!(access.len() > 100, "{access}");
        vec![
            pem.lines().nth(8).unwrap().to_owned(),
            PULLER.to_owned(),
            GIT_USER.1.to_owned(),
            b64(&format!("puller:{PULLER}")),
            access,
        ]
    }

    fn nothing_was_got(&self, log: &str) {
        assert!(log.contains("that is all"), "it was tried to the end:\n{log}");
        for what in REFUSED {
            assert!(log.contains(&format!("REFUSED {what}: ")), "{what} is not refused:\n{log}");
        }
        assert!(!log.contains("GOT "), "something is not refused:\n{log}");
        assert!(log.contains("block devices: 0"), "{log}");
        for secret in self.secrets_of_others() {
            assert!(!log.contains(&secret), "{secret} is in the log");
        }
    }

    async fn neighbour_works(&self) {
        let pods: Api<Pod> = Api::namespaced(self.client(), "default");
        let status = pods.get("neighbour").await.unwrap().status.unwrap();
        let restarts: i32 = status.container_statuses.iter().flatten().map(|all| all.restart_count).sum();
        assert_eq!((status.phase.as_deref(), restarts), (Some("Running"), 0), "{status:?}");
        let nodes: Api<Node> = Api::all(self.client());
        let node = nodes.get(forge::NODE).await.unwrap().status.unwrap();
        let pressed = node
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "DiskPressure" && condition.status == "True");
        assert!(!pressed, "{node:?}");
    }
}

fn dockerfile(registry: &str, script: &str) -> String {
    let script = b64(script);
    format!(
        "FROM {registry}/tool:1 AS work\n\
         COPY --from={registry}/driver:1 /opt /opt\n\
         RUN echo {script} | base64 -d >/script; touch /left\n\
         RUN sh -e /script\n\
         FROM {registry}/driver:1\n\
         COPY --from=work /left /left\n"
    )
}

fn message(status: &ModuleImageStatus) -> String {
    status.message.clone().unwrap_or_default().to_string()
}

fn ready(status: &str) -> Value {
    let now = "2026-01-01T00:00:00Z";
    json!({
        "type": "Ready", "status": status, "reason": "Said", "message": "", "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    })
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn builds(pod: &Pod) -> bool {
    let before = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let states = before.filter(|status| status.name == "build").filter_map(|status| status.state.as_ref());
    states.into_iter().any(|state| state.running.is_some())
}

/// Looks all the time how many pods make a Module's image at once.
struct Crowds {
    seen: Arc<Mutex<BTreeSet<String>>>,
    _looks: JoinSet<()>,
}

impl Crowds {
    fn watch(client: Client) -> Self {
        let seen = Arc::<Mutex<BTreeSet<String>>>::default();
        let mut looks = JoinSet::new();
        let found = seen.clone();
        looks.spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, "default");
            let ours = ListParams::default().labels("app.kubernetes.io/managed-by=tenon");
            loop {
                tokio::time::sleep(LOOK).await;
                let Ok(all) = pods.list(&ours).await else { continue };
                let mut at_work: BTreeMap<_, Vec<String>> = BTreeMap::new();
                for pod in all.items.iter().filter(|pod| !has_ended(pod)) {
                    let module = pod.labels().get("kmm.node.kubernetes.io/module.name").cloned();
                    at_work.entry(module).or_default().push(pod.name_any());
                }
                let crowds = at_work.into_values().filter(|pods| pods.len() > 1);
                found.lock().unwrap().extend(crowds.map(|pods| pods.join(" and ")));
            }
        });
        Self { seen, _looks: looks }
    }

    fn none(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.is_empty(), "two at once: {seen:?}");
    }
}

/// The most memory that a process has ever held, in KiB; nothing when it has ended.
fn peak(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_go_wrong_are_ended_told_and_tried_again_one_at_a_time() {
    let mut site = Site::start().await;
    let _logs = ShownOnPanic(site.lab.logs());
    one_that_pries_finds_nothing(&site).await;
    one_that_hangs_is_ended_and_tried_again(&site).await;
    one_that_floods_its_log_fills_nobodys_memory(&site).await;
    one_that_fills_its_volume_is_ended(&site).await;
    one_behind_a_proxy_goes_through_it(&mut site).await;
    one_whose_node_is_lost_is_made_anew(&mut site).await;
    site.crowds.none();
}

async fn one_that_pries_finds_nothing(site: &Site) {
    site.simple(&format!("{}\ncp /proc/self/status /left", pry(&site.kernel)), json!({})).await;
    site.made("simple").await;
    site.nothing_was_got(&site.logs("simple").await);
    // Nor is it in anything that was pushed. Images that were there before are large.
    let sought = site.lab.folder().join("sought");
    fs::write(&sought, site.secrets_of_others().join("\n")).unwrap();
    let pushed = files_below(&site.lab.registry().log().with_file_name("data"));
    let small = pushed.iter().filter(|path| path.metadata().unwrap().len() < 16 << 20);
    let small: Vec<_> = small.collect();
    assert!(small.len() > 10, "it was looked in the right place: {pushed:?}");
    for path in small {
        let search = r#"gzip -dcf "$1" | grep --text --fixed-strings --file "$2""#;
        let found = Command::new("sh").args(["-c", search, "-"]).args([path, &sought]).output().unwrap();
        assert_eq!(found.status.code(), Some(1), "a secret is in {}: {found:?}", path.display());
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

async fn one_that_hangs_is_ended_and_tried_again(site: &Site) {
    let former = site.pods("simple").await;
    site.simple("echo here it hangs\nsleep 100000", json!({ "activeDeadlineSeconds": 30 })).await;
    let first = site.building("simple", &former).await;
    let status = site.failed("simple", "longer than the 30 s").await;
    let told = message(&status);
    assert!(told.contains("build.activeDeadlineSeconds") && told.contains("\nhere it hangs\n"), "{told}");
    assert!(status.retry_at.is_some() && status.making.unwrap().failures == 1);
    assert!(site.logs("simple").await.contains("here it hangs"), "what has hung has left its log");
    let again = site.building("simple", &[former, vec![first.clone()]].concat()).await;
    assert_eq!(
        again.labels().get("batch.kubernetes.io/job-name"),
        first.labels().get("batch.kubernetes.io/job-name")
    );
    site.crowds.none();
}

async fn one_that_floods_its_log_fills_nobodys_memory(site: &Site) {
    let former = site.pods("simple").await;
    let operator = site.lab.operator_process().unwrap();
    let before = peak(operator).unwrap();
    // One line, and many.
    let flood = "head -c 96m /dev/zero | tr '\\0' x\necho\n\
                 yes $(printf %01000d 7) | head -c 32m\necho\necho here the flood ends\nexit 3";
    site.simple(flood, json!({})).await;
    let pod = site.building("simple", &former).await;
    let job = pod.labels().get("batch.kubernetes.io/job-name").cloned();
    let known = |status: &ModuleImageStatus| status.making.as_ref().map(|making| making.job.clone()) == job;
    site.status_where("simple", "its Job is told", known).await;
    let mut follows = site.logs_command("simple").await;
    let mut follows = follows.arg("--follow").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = follows.stdout.take().unwrap();
    let read = std::thread::spawn(move || {
        let (mut buffer, mut total) = (vec![0; 1 << 16], 0_usize);
        while let Ok(count @ 1..) = out.read(&mut buffer) {
            total += count;
        }
        total
    });
    let mut most = 0;
    let ended = comes_true_within(SOON, "kubectl tenon logs ends with the build", async || {
        most = peak(follows.id()).unwrap_or_default().max(most);
        follows.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned())
    });
    ended.await.unwrap();
    let read = read.join().unwrap();
    println!("kubectl tenon logs showed {read} bytes with {most} KiB");
    // The kubelet rotates logs; whoever reads slower than it is written misses a part.
    assert!(read > 16 << 20, "it was no flood: {read}");
    assert!(most < MODEST, "kubectl tenon logs held {most} KiB");

    let status = site.failed("simple", "here the flood ends").await;
    assert!(message(&status).len() <= MAX_BYTES && message(&status).contains("exit code"), "{status:?}");
    let after = peak(operator).unwrap();
    println!("the operator had {before} KiB before, {after} KiB at most");
    assert!(after < before + MODEST, "the operator held {after} KiB, and {before} before");
}

async fn one_that_fills_its_volume_is_ended(site: &Site) {
    let fill = format!("echo here it fills\ndd if=/dev/zero of=/much bs=1M count={MUCH}\nsleep 100000");
    let limits = json!({ "resources": { "limits": { "memory": "2Gi", "ephemeral-storage": FULL } } });
    site.simple(&fill, limits).await;
    let status = site.failed("simple", "its volume is full").await;
    let told = message(&status);
    assert!(told.contains(FULL) && told.contains("raise build.resources.limits.ephemeral-storage"), "{told}");
    site.neighbour_works().await;
    let next = site.made_after("simple", "true", &status).await;
    assert_ne!(next.image_digest, None);
    site.crowds.none();
}

impl Site {
    /// What is put right is built.
    async fn made_after(&self, module: &str, script: &str, before: &ModuleImageStatus) -> ModuleImageStatus {
        self.simple(script, json!({})).await;
        let digest = before.image_digest.clone();
        let anew = |status: &ModuleImageStatus| {
            status.reason.as_deref() == Some(reasons::IMAGE_EXISTS) && status.image_digest != digest
        };
        self.status_where(module, "what is put right is built", anew).await
    }
}

async fn one_behind_a_proxy_goes_through_it(site: &mut Site) {
    let address = IpAddr::from(ADDRESS);
    let git = GitServer::start_private(site.lab.folder(), address, GIT_USER).await.unwrap();
    git.commit(
        &[("driver/script", "driver=$(find $ARTIFACTS -name simple-kmod.ko)\ncp $driver $MODULES/\n")],
        "v1",
    )
    .unwrap();
    let (authority, path) = git.uri().trim_start_matches("http://").split_once('/').unwrap();
    let uri = format!("http://{CODE}/{path}");
    let hosts = [
        (HUB.split(':').next().unwrap().to_owned(), site.registry.parse::<SocketAddr>().unwrap()),
        (CODE.to_owned(), authority.parse().unwrap()),
    ];
    let proxy = ForwardProxy::start(address, hosts.into()).await.unwrap();
    site.lab.kill_operator();
    // As the cluster's administrator sets them for the operator: in capitals alone.
    site.lab.set_operator_environment(vec![
        ("HTTP_PROXY".to_owned(), proxy.uri()),
        ("NO_PROXY".to_owned(), format!("127.0.0.1,{ADDRESS}")),
    ]);
    site.lab.tell_operator_more([format!("--registry={HUB},plain-http")]);
    site.lab.start_operator().await.unwrap();

    let source = json!({
        "git": { "uri": uri, "ref": "v1", "secret": { "name": "git" } },
        "path": "driver",
        "toolkit": format!("{}/tool:1", site.registry),
        "artifacts": [{
            "image": { "reference": format!("{HUB}/driver:1") },
            "path": format!("/opt/lib/modules/{}", site.kernel), "to": "driver",
        }],
        // It may look around while it is there.
        "before": format!("echo {} | base64 -d >pry\nsh pry", b64(&pry(&site.kernel))),
        "script": ". ./script",
    });
    site.module("far", HUB, "hub", json!({ "source": source }), true).await;
    let from_sources = site.made("far").await;
    site.nothing_was_got(&site.logs("far").await);
    let script = format!("wget -q -O /left http://{HUB}/v2/driver/tags/list\ngrep driver /left");
    let build = json!({ "dockerfile": dockerfile(HUB, &script) });
    site.module("far", HUB, "hub", build, true).await;
    let anew = |status: &ModuleImageStatus| {
        status.reason.as_deref() == Some(reasons::IMAGE_EXISTS)
            && status.image_digest != from_sources.image_digest
    };
    site.status_where("far", "it is built from the Dockerfile", anew).await;

    let asked = proxy.asked();
    let asked_by = |pods: bool, method: &str, what: &str| {
        asked.iter().any(|asked| {
            (asked.from != address) == pods
                && asked.method.as_str() == method
                && asked.uri.to_string().contains(what)
        })
    };
    let expected = [
        (false, "HEAD", format!("{HUB}/v2/driver/manifests/")),
        (true, "GET", format!("{CODE}/driver.git/.git/info/refs")),
        (true, "GET", format!("{HUB}/v2/tool/blobs/")),
        (true, "GET", format!("{HUB}/v2/driver/tags/list")),
        (true, "PUT", format!("{HUB}/v2/far/manifests/")),
    ];
    for (pods, method, what) in expected {
        assert!(asked_by(pods, method, &what), "nobody asked the proxy to {method} {what}: {asked:#?}");
    }
}

async fn one_whose_node_is_lost_is_made_anew(site: &mut Site) {
    // It ends when there is something to be found: past the proxy of before, for this wget heeds no `no_proxy`.
    let gate = format!(
        "until wget -Y off -q -O /left http://{}/v2/gate/tags/list; do sleep 1; done\necho the gate is open",
        site.registry
    );
    let build = json!({ "dockerfile": dockerfile(&site.registry, &gate) });
    site.module("lost", &site.registry, "puller", build, false).await;
    let first = site.building("lost", &[]).await;
    site.lab.host_node().unwrap().kill();
    let nodes: Api<Node> = Api::all(site.client());
    let silent = json!({ "status": { "conditions": [ready("Unknown")] } });
    nodes.patch_status(forge::NODE, &PatchParams::default(), &Patch::Strategic(silent)).await.unwrap();
    let silent = |status: &ModuleImageStatus| message(status).contains("node forge, which has fallen silent");
    site.status_where("lost", "its node is named", silent).await;
    let pods = site.pods("lost").await;
    assert_eq!(
        pods.iter().map(kube::ResourceExt::uid).collect::<Vec<_>>(),
        [first.uid()],
        "it may still be at work"
    );

    nodes.delete(forge::NODE, &DeleteParams::default()).await.unwrap();
    let waits = |status: &ModuleImageStatus| message(status).contains("nodes are available");
    site.status_where("lost", "no node takes another one", waits).await;
    site.lab.add_host_node(forge::NODE).await.unwrap();
    let second = site.building("lost", std::slice::from_ref(&first)).await;
    assert_ne!(second.uid(), first.uid());
    program_images::push_files(&[("a", b"b")], &format!("{}/gate:1", site.registry)).await.unwrap();
    site.made("lost").await;
    // Of a pod that has only just ended, on a node that has only just come.
    comes_true_within(SOON, "its log is there", async || {
        let log = site.logs("lost").await;
        if log.contains("the gate is open") { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
}
