//! The containers that compile sources: one fetches them, one gathers what else is needed ([`super::gather`]), one compiles them
//! with the kernel's driver toolkit. All pass the Pod Security Standard `restricted`: they may do nothing but compile. What they leave is packed by the program that publishes.

use k8s_openapi::api::core::v1::{Container, EnvVar, Volume};
use tenon_api::ModuleImage;
use tenon_api::module::BuildArg;
use tenon_api::task;

use super::gather::{self, ArtifactFiles, Gather, Pulled, volume_of_claim};
use super::recipe::{Base, resources};
use super::{MEMORY, Settings, WORK, confined, literal, mount, restricted, variable, volume_of_secret};

/// Where the program that fetches lies in the builder's image.
const PROGRAM: &str = "/usr/libexec/tenon/fetch";
/// What compiles where the user says nothing else.
const COMPILE: &str = include_str!("compile.sh");

/// What is fetched and compiled, besides what the image's object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromSources {
    /// Where the sources are.
    pub place: Place,
    /// The directory in them that is compiled.
    pub path: Option<String>,
    /// The image that compiles.
    pub toolkit: Base,
    /// Files that it needs besides.
    pub artifacts: Vec<ArtifactFiles>,
    /// What is done before.
    pub before: Option<String>,
    /// What is done instead of the usual.
    pub script: Option<String>,
    /// What is done afterwards.
    pub after: Option<String>,
    /// The variables of all three.
    pub arguments: Vec<BuildArg>,
}

/// Where sources are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a git repository.
    Git {
        /// Its address.
        uri: String,
        /// Branch, tag or commit.
        reference: Option<String>,
        /// The Secret with a name and a password.
        secret: Option<String>,
    },
    /// On a volume.
    Claim(String),
    /// In an image.
    Image(Pulled),
}

impl FromSources {
    pub(super) fn volumes(&self) -> Vec<Volume> {
        let volume = match &self.place {
            Place::Git { secret, .. } => secret.as_deref().map(|secret| volume_of_secret("git", secret)),
            Place::Claim(claim) => Some(volume_of_claim("claim", claim)),
            Place::Image(_) => None,
        };
        let gathered = Gather::of(self).map(|gather| gather.volumes()).unwrap_or_default();
        volume.into_iter().chain(gathered).collect()
    }

    pub(super) fn containers(&self, image: &ModuleImage, settings: &Settings) -> Vec<Container> {
        let fetch = (!matches!(self.place, Place::Image(_))).then(|| self.fetch(settings));
        let gather = Gather::of(self).map(|gather| gather.container(image, settings));
        fetch.into_iter().chain(gather).chain([self.compile(image)]).collect()
    }

    /// What is told to the one that gathers, if anything is: Linux starts no program with more than so much of it.
    pub fn gathering(&self, image: &ModuleImage) -> Option<String> {
        Gather::of(self).map(|gather| gather.told(image))
    }

    fn fetch(&self, settings: &Settings) -> Container {
        let mut mounts = vec![mount(WORK, task::WORK_DIR, false)];
        let mut environment: Vec<_> =
            settings.environment.iter().map(|(name, value)| variable(name, value)).collect();
        match &self.place {
            Place::Git { uri, reference, secret } => {
                environment.push(variable("GIT_URI", uri));
                environment.push(variable("GIT_REF", reference.as_deref().unwrap_or("HEAD")));
                mounts.extend(secret.iter().map(|_| mount("git", task::GIT_DIR, true)));
            }
            Place::Claim(_) => mounts.push(mount("claim", task::CLAIM_DIR, true)),
            Place::Image(_) => {}
        }
        Container {
            name: task::FETCH_CONTAINER.to_owned(),
            image: Some(settings.builder.clone()),
            command: Some(vec![PROGRAM.to_owned()]),
            env: Some(environment),
            volume_mounts: Some(mounts),
            ..confined("64Mi", MEMORY)
        }
    }

    fn compile(&self, image: &ModuleImage) -> Container {
        let directory = gather::directory(self);
        let out = format!("{}/{}", task::WORK_DIR, task::COMPILED);
        let modules = format!("{out}{}/lib/modules/{}", image.spec.dir_name, image.spec.kernel);
        let ours = [
            ("SOURCE", directory.as_str()),
            ("OUT", &out),
            ("MODULES", &modules),
            // As `uname -r` prints it, with the plus that build arguments do without.
            ("KERNEL", &image.spec.kernel),
            ("HOME", task::WORK_DIR),
        ];
        let users = self.arguments.iter().map(|arg| variable(&arg.name, &arg.value));
        let gathered = gather::variables(self);
        let gathered = gathered.iter().map(|(name, value)| variable(name, value));
        let ours = ours.into_iter().map(|(name, value)| variable(name, value));
        let environment: Vec<EnvVar> = users.chain(ours).chain(gathered).collect();
        Container {
            name: task::BUILD_CONTAINER.to_owned(),
            image: Some(self.toolkit.pinned.clone()),
            command: Some(vec!["/bin/sh".to_owned(), "-euc".to_owned(), literal(&self.script())]),
            env: Some(environment),
            volume_mounts: Some(vec![mount(WORK, task::WORK_DIR, false)]),
            resources: Some(resources(image)),
            // A compiler has its own idea of where to write what it needs for a moment.
            security_context: Some(k8s_openapi::api::core::v1::SecurityContext {
                read_only_root_filesystem: None,
                ..restricted()
            }),
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }
    }

    /// What a shell does. The middle has one of its own: it may end early, and go elsewhere.
    fn script(&self) -> String {
        let script = self.script.as_deref().unwrap_or(COMPILE);
        let before = self.before.as_deref().map(|before| format!("{before}\ncd \"$SOURCE\"\n"));
        let after = self.after.as_deref().map(|after| format!("{after}\n"));
        format!(
            "mkdir -p \"$MODULES\"\ncd \"$SOURCE\"\n{}(\n{script}\n)\n{}",
            before.unwrap_or_default(),
            after.unwrap_or_default()
        )
    }
}
