//! Deleting what one has published: what else stands for it, and the deletion itself, always by content.

use reqwest::header::{HeaderValue, LINK};
use reqwest::{Method, Url};
use serde::Deserialize;
use tenon_order::Digest;

use super::exchange::{Call, Rights, read_bounded};
use super::image::{Fetched, get};
use super::{Access, Registry, RegistryError, Subject, Violation};
use crate::manifest::Document;
use crate::reference::ImageReference;

/// Of one page of tags.
const MAX_PAGE: u64 = 4 << 20;
/// Tags that are asked for at a time.
const PAGE: &str = "1000";
/// Manifests that are read at a time.
const AT_ONCE: usize = 8;

/// A tag that leads to some content: stands for it, or for an index that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagOf {
    /// The tag.
    pub tag: String,
    /// What it stands for.
    pub digest: Digest,
}

impl Registry {
    /// The tags of the image's repository that lead to one of these. `None` where nobody knows: the repository has more than `most`,
    /// or the registry does not list them all.
    pub async fn tags_of(
        &self,
        image: &ImageReference,
        digests: &[Digest],
        most: usize,
    ) -> Result<Option<Vec<TagOf>>, RegistryError> {
        let list = async |access: Access| self.leading_to(image, digests, most, &access).await;
        Ok(self.with_access(image, list).await?.0)
    }

    /// Deletes this content from the image's repository, with all tags that stand for it. A tag that stands for something else by
    /// now stays.
    pub async fn delete(&self, image: &ImageReference, digest: Digest) -> Result<(), RegistryError> {
        let subject = Subject::manifest(&image.by_digest(digest));
        let delete = async |access: Access| {
            self.persist(&subject, self.timing.manifest, async || {
                let url = self.url(image, &format!("manifests/{digest}"), &subject)?;
                let call = Call { method: Method::DELETE, rights: Rights::Delete, ..get(url, &subject) };
                self.exchange(&call, &access).await
            })
            .await
        };
        self.with_access(image, delete).await.map(drop)
    }

    async fn leading_to(
        &self,
        image: &ImageReference,
        digests: &[Digest],
        most: usize,
        access: &Access,
    ) -> Result<Option<Vec<TagOf>>, RegistryError> {
        let Some(tags) = self.tags(image, most, access).await? else { return Ok(None) };
        let mut found = Vec::new();
        for some in tags.chunks(AT_ONCE) {
            let looks = some.iter().map(async |tag| {
                let Some(tagged) = image.by_tag(tag) else { return Ok(None) };
                match self.fetch(&tagged, access).await {
                    Ok(fetched) => Ok(leads_to(&fetched, digests)
                        .then(|| TagOf { tag: tag.clone(), digest: fetched.digest })),
                    // Gone meanwhile, or no image at all: a signature, a chart.
                    Err(
                        RegistryError::Absent(_)
                        | RegistryError::Invalid { source: Violation::Manifest(_), .. },
                    ) => Ok(None),
                    Err(error) => Err(error),
                }
            });
            for look in futures::future::join_all(looks).await {
                found.extend(look?);
            }
        }
        Ok(Some(found))
    }

    /// All tags, page by page; `None` where there are more than `most`, where they cannot be seen in full, or where not even the
    /// image's own is among them.
    async fn tags(
        &self,
        image: &ImageReference,
        most: usize,
        access: &Access,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        let subject = Subject::manifest(image);
        let mut url = self.url(image, "tags/list", &subject)?;
        url.query_pairs_mut().append_pair("n", PAGE);
        let mut tags = Vec::new();
        loop {
            let (page, next) = self
                .persist(&subject, self.timing.manifest, async || self.page(&url, &subject, access).await)
                .await?;
            let has_some = !page.is_empty();
            tags.extend(page);
            match next {
                Next::None if tags.len() <= most => break,
                Next::Page(next) if has_some && tags.len() <= most => url = next,
                // What cannot be seen in full may hold anything.
                _ => return Ok(None),
            }
        }
        let is_listed = match image.tag() {
            Some(tag) if !tags.iter().any(|known| known == tag) => !self.is_there(image, tag, access).await?,
            _ => true,
        };
        Ok(is_listed.then_some(tags))
    }

    async fn is_there(
        &self,
        image: &ImageReference,
        tag: &str,
        access: &Access,
    ) -> Result<bool, RegistryError> {
        let Some(tagged) = image.by_tag(tag) else { return Ok(false) };
        match self.fetch(&tagged, access).await {
            Err(RegistryError::Absent(_)) => Ok(false),
            other => other.map(|_| true),
        }
    }

    async fn page(
        &self,
        url: &Url,
        subject: &Subject,
        access: &Access,
    ) -> Result<(Vec<String>, Next), RegistryError> {
        let response = match self.exchange(&get(url.clone(), subject), access).await {
            Ok(response) => response,
            // A repository without tags is none to some registries.
            Err(RegistryError::Absent(_)) => return Ok((Vec::new(), Next::None)),
            Err(error) => return Err(error),
        };
        let next = next(response.headers().get(LINK), url);
        let bytes = read_bounded(response, MAX_PAGE, subject).await?;
        let page: Page =
            serde_json::from_slice(&bytes).map_err(|_| RegistryError::invalid(subject, Violation::Tags))?;
        Ok((page.tags.unwrap_or_default(), next))
    }
}

#[derive(Deserialize)]
struct Page {
    /// Null where there is none.
    tags: Option<Vec<String>>,
}

/// What follows a page of tags.
enum Next {
    /// Nothing.
    None,
    /// Another one.
    Page(Url),
    /// Something that nobody goes to: of another registry, and credentials would go along; or nothing that can be read.
    Elsewhere,
}

/// The next page: `Link: </v2/…>; rel="next"`.
fn next(link: Option<&HeaderValue>, from: &Url) -> Next {
    let Some(link) = link else { return Next::None };
    let target = link.to_str().ok().and_then(|link| link.trim().strip_prefix('<')?.split_once('>'));
    match target {
        Some((_, rest)) if !rest.contains("next") => Next::None,
        Some((target, _)) => match from.join(target) {
            Ok(next) if next.origin() == from.origin() => Next::Page(next),
            _ => Next::Elsewhere,
        },
        None => Next::Elsewhere,
    }
}

fn leads_to(fetched: &Fetched, digests: &[Digest]) -> bool {
    let held = match &fetched.document {
        Document::Index(parts) => parts.iter().any(|part| digests.contains(&part.digest)),
        Document::Image(_) => false,
    };
    held || digests.contains(&fetched.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::last_page(None, "none")]
    #[case::relative(Some("</v2/gauge/tags/list?last=1&n=2>; rel=\"next\""), "page")]
    #[case::absolute(Some("<http://registry.test/v2/gauge/tags/list?last=1>; rel=\"next\""), "page")]
    #[case::of_another_origin(
        Some("<http://internal:5000/v2/gauge/tags/list?last=1>; rel=\"next\""),
        "elsewhere"
    )]
    #[case::no_link(Some("next"), "elsewhere")]
    #[case::something_else(Some("</docs>; rel=\"help\""), "none")]
    fn what_follows_a_page_is_never_taken_for_nothing(
        #[case] link: Option<&'static str>,
        #[case] expected: &str,
    ) {
        let link = link.map(HeaderValue::from_static);
        let from = Url::parse("http://registry.test/v2/gauge/tags/list?n=2").unwrap();
        let found = match next(link.as_ref(), &from) {
            Next::None => "none",
            Next::Page(_) => "page",
            Next::Elsewhere => "elsewhere",
        };
        assert_eq!(found, expected);
    }
}
