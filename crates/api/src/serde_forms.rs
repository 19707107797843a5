//! How fields of KMM's API are read and written: there an empty string means the same as no string.

use serde::{Deserialize, Deserializer, Serializer};

/// Reads `""` as absent, so that nobody has to ask twice whether a field is set.
pub(crate) fn empty_is_absent<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// Leaves out flags that say nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(crate) fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Leaves out counts of nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(crate) fn is_zero(count: &i32) -> bool {
    *count == 0
}

/// Writes an absent text as an empty one, where the field must stay.
#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
pub(crate) fn absent_is_empty<S: Serializer>(
    text: &Option<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.as_deref().unwrap_or_default())
}
