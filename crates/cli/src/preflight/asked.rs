//! The question: a PreflightValidation of our own, from its creation to its removal.

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use tenon_api::preflight_validation::PreflightValidationSpec;
use tenon_api::{PreflightValidation, PreflightValidationStatus};

/// Why the operator cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0}")]
    Refused(String),
    #[error("create a PreflightValidation")]
    Create(#[source] Box<kube::Error>),
    #[error("read PreflightValidation {name}")]
    Read { name: String, source: Box<kube::Error> },
    #[error("remove PreflightValidation {name}")]
    Remove { name: String, source: Box<kube::Error> },
}

impl AskError {
    /// What the API server said, or that it said nothing; `None` where it has refused what was asked.
    fn cause(&self) -> Option<&kube::Error> {
        match self {
            Self::Create(source) | Self::Read { source, .. } | Self::Remove { source, .. } => Some(source),
            Self::Refused(_) => None,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        let code = match self.cause()? {
            kube::Error::Api(status) => status.code,
            _ => 0,
        };
        match (self, code) {
            (Self::Remove { name, .. }, _) => {
                Some(format!("remove it yourself: kubectl delete preflightvalidation {name}"))
            }
            (_, 404) => {
                Some("is Tenon installed there? kubectl apply -f deploy/crds brings its kinds".to_owned())
            }
            (_, 403) => Some(
                "ask for the rights to create, get and delete preflightvalidations.kmm.sigs.x-k8s.io"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// A PreflightValidation that was created here.
pub(super) struct Asked {
    api: Api<PreflightValidation>,
    object: PreflightValidation,
}

impl Asked {
    /// Asks. Whoever asks the same meanwhile has an object of their own.
    pub(super) async fn create(client: Client, spec: PreflightValidationSpec) -> Result<Self, AskError> {
        let api: Api<PreflightValidation> = Api::all(client);
        let mut object = PreflightValidation::new("", spec);
        object.metadata.name = None;
        object.metadata.generate_name = Some(format!("{}-", stem(&object.spec.kernel_version)));
        let created = api.create(&PostParams::default(), &object).await.map_err(|source| match &source {
            kube::Error::Api(status) if status.code == 422 => AskError::Refused(refusal(status)),
            _ => AskError::Create(Box::new(source)),
        })?;
        Ok(Self { api, object: created })
    }

    pub(super) fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// What the operator says, once it has said something of this question.
    pub(super) async fn status(&self) -> Result<Option<PreflightValidationStatus>, AskError> {
        let failed = |source| AskError::Read { name: self.name().to_owned(), source: Box::new(source) };
        let object = self.api.get_status(self.name()).await.map_err(failed)?;
        let current = |status: &PreflightValidationStatus| {
            status.observed_generation.is_some() && status.observed_generation == object.metadata.generation
        };
        Ok(object.status.clone().filter(current))
    }

    /// Takes the question back; what only it has asked for goes with it.
    pub(super) async fn remove(&self) -> Result<(), AskError> {
        let same = Preconditions { uid: self.object.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        match self.api.delete(self.name(), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(AskError::Remove { name: self.name().to_owned(), source: Box::new(source) }),
        }
    }
}

/// The API server's words, without the object's name, which nobody has chosen.
fn refusal(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let said: Vec<_> = causes.map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    if said.is_empty() { status.message.clone() } else { said.join("; ") }
}

/// A kernel's name as far as an object may have it.
pub(super) fn stem(kernel: &str) -> String {
    let allowed = |char: char| match char.to_ascii_lowercase() {
        char @ ('a'..='z' | '0'..='9' | '.') => char,
        _ => '-',
    };
    let text: String = kernel.chars().map(allowed).collect();
    let words: Vec<_> =
        text.split('.').map(|word| word.trim_matches('-')).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "kernel".to_owned() } else { words.join(".") }
}
