//! The container that builds an image from a Dockerfile: a rootless builder, in a user namespace of its own.
//!
//! It passes the Pod Security Standard `baseline`: it may set user ids, for the range that its image grants it, and nothing else.
//! Under the container engine's default seccomp profile it could not make a user namespace, so it has none of its own choosing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, ObjectFieldSelector,
    SecurityContext, Volume,
};
use tenon_api::ModuleImage;
use tenon_api::module::BuildArg;
use tenon_api::task;

use super::recipe::{Base, resources};
use super::{Mount, Settings, WORK, literal, mount, variable, volume_of_secret};

/// Where the builder's entry point lies in its image.
const PROGRAM: &str = "/usr/libexec/tenon/build";
/// What the builder is told, besides what the image's object says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FromDockerfile {
    /// The Dockerfile, as it was hashed.
    pub dockerfile: String,
    /// All its arguments.
    pub arguments: Vec<BuildArg>,
    /// The images that it names.
    pub bases: Vec<Base>,
}

/// A text that the build finds as a file: the annotation that carries it, the volume, and the file.
struct Text {
    annotation: &'static str,
    volume: &'static str,
    directory: &'static str,
    file: &'static str,
}

const DOCKERFILE: Text = Text {
    annotation: "tenon.dev/dockerfile",
    volume: "dockerfile",
    directory: task::DOCKERFILE_DIR,
    file: "dockerfile",
};
const REGISTRIES: Text = Text {
    annotation: "tenon.dev/registries",
    volume: "registries",
    directory: task::REGISTRIES_DIR,
    file: task::REGISTRIES_FILE,
};
const AUTHORITIES: Text = Text {
    annotation: "tenon.dev/authorities",
    volume: "authorities",
    directory: task::AUTHORITIES_DIR,
    file: "registries.crt",
};

impl FromDockerfile {
    /// What the pod carries as texts of its own: what is built is then what was hashed, whatever becomes of a ConfigMap.
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        self.texts().into_iter().map(|(text, content)| (text.annotation.to_owned(), content)).collect()
    }

    fn texts(&self) -> Vec<(Text, String)> {
        let texts = [
            (DOCKERFILE, self.dockerfile.clone()),
            (REGISTRIES, self.registries()),
            (AUTHORITIES, self.authorities()),
        ];
        texts.into_iter().filter(|(_, content)| !content.is_empty()).collect()
    }

    /// The registries that are spoken to without TLS, as containers-registries.conf(5) has it.
    fn registries(&self) -> String {
        let entries: BTreeMap<_, _> = self
            .bases
            .iter()
            .filter(|base| base.insecure)
            .map(|base| {
                let host = &base.registry;
                (host, format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"))
            })
            .collect();
        entries.into_values().collect()
    }

    fn authorities(&self) -> String {
        let all: std::collections::BTreeSet<_> =
            self.bases.iter().filter_map(|base| base.authority.as_deref()).collect();
        all.into_iter().collect::<Vec<_>>().join("\n")
    }

    pub(super) fn volumes(&self, image: &ModuleImage) -> Vec<Volume> {
        let secrets = users_secrets(image);
        let secrets = secrets.iter().map(|(volume, name)| volume_of_secret(volume, name));
        self.texts().iter().map(|(text, _)| volume(text)).chain(secrets).collect()
    }

    /// The container. It may read the registries' credentials, for its base images, and the Secrets that the Module gives it.
    pub(super) fn container(
        &self,
        image: &ModuleImage,
        registry: Option<Mount<'_>>,
        settings: &Settings,
    ) -> Container {
        let arguments = self.arguments.iter().map(|arg| format!("--build-arg={}={}", arg.name, arg.value));
        let pins = self
            .bases
            .iter()
            .map(|base| format!("--build-context={}=docker-image://{}", base.name, base.pinned));
        let texts = self.texts();
        let texts = texts.iter().map(|(text, _)| mount(text.volume, text.directory, true));
        let registry = registry.map(|secret| mount(secret.volume, secret.path, true));
        let secrets = users_secrets(image);
        let secrets = secrets
            .iter()
            .map(|(volume, name)| mount(volume, &format!("{}/{name}", task::SECRETS_DIR), true));
        let mounts = texts.chain(registry).chain(secrets).chain([mount(WORK, task::WORK_DIR, false)]);
        Container {
            name: task::BUILD_CONTAINER.to_owned(),
            image: Some(settings.builder.clone()),
            command: Some(vec![PROGRAM.to_owned()]),
            args: Some(arguments.chain(pins).map(|argument| literal(&argument)).collect()),
            env: Some(settings.environment.iter().map(|(name, value)| variable(name, value)).collect()),
            volume_mounts: Some(mounts.collect()),
            resources: Some(resources(image)),
            security_context: Some(SecurityContext {
                // The programs that set the ranges of ids have their rights from the image's files.
                allow_privilege_escalation: Some(true),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    add: Some(vec!["SETUID".to_owned(), "SETGID".to_owned()]),
                }),
                ..SecurityContext::default()
            }),
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }
    }
}

/// The Secrets that the Module gives to its build, and the volumes that they are.
fn users_secrets(image: &ModuleImage) -> Vec<(String, String)> {
    let secrets = image.spec.build.iter().flat_map(|build| &build.secrets);
    secrets.enumerate().map(|(index, secret)| (format!("secret-{index}"), secret.name.clone())).collect()
}

fn volume(text: &Text) -> Volume {
    let path = format!("metadata.annotations['{}']", text.annotation);
    Volume {
        name: text.volume.to_owned(),
        downward_api: Some(DownwardAPIVolumeSource {
            items: Some(vec![DownwardAPIVolumeFile {
                path: text.file.to_owned(),
                field_ref: Some(ObjectFieldSelector { field_path: path, ..ObjectFieldSelector::default() }),
                ..DownwardAPIVolumeFile::default()
            }]),
            ..DownwardAPIVolumeSource::default()
        }),
        ..Volume::default()
    }
}
