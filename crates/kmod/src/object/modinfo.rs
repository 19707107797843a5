//! What a module says about itself: `key=value` texts in its section `.modinfo` (the macros of
//! `include/linux/module.h` such as `MODULE_LICENSE`).

use std::collections::HashMap;

use super::ObjectError;
use super::elf::bounded;
use crate::ModuleName;
use crate::vermagic::VerMagic;

/// The most fields and bytes that are read; the largest in-tree modules have some thousand aliases.
const MAX_FIELDS: usize = 1 << 15;
const MAX_BYTES: usize = 4 << 20;

/// The contents of `.modinfo`, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModInfo {
    fields: Vec<(String, String)>,
}

/// A parameter that a module takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Its name, without the module's.
    pub name: String,
    /// Its C type as `module_param` had it: `int`, `charp`, `array of uint`.
    pub kind: Option<String>,
    /// What `MODULE_PARM_DESC` says.
    pub description: Option<String>,
}

/// Modules that should be loaded around this one if they exist. Names may be aliases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoftDependencies {
    /// Loaded before it.
    pub pre: Vec<String>,
    /// Loaded after it.
    pub post: Vec<String>,
}

impl SoftDependencies {
    /// Reads `pre: a b post: c`, the form of `MODULE_SOFTDEP` and of `modules.softdep`, and adds it to these.
    pub fn extend_from(&mut self, text: &str) {
        // Words before a heading belong nowhere: modprobe skips them too.
        let mut list: Option<&mut Vec<String>> = None;
        for word in text.split_ascii_whitespace() {
            match word {
                "pre:" => list = Some(&mut self.pre),
                "post:" => list = Some(&mut self.post),
                name => {
                    if let Some(names) = list.as_mut() {
                        names.push(name.to_owned());
                    }
                }
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pre.is_empty() && self.post.is_empty()
    }
}

impl ModInfo {
    /// Reads the section's bytes. Texts without `=` are not fields and are left out; bytes that are not UTF-8 are replaced.
    pub fn parse(section: &[u8]) -> Result<Self, ObjectError> {
        if section.len() > MAX_BYTES {
            return Err(ObjectError::Information { size: section.len(), limit: MAX_BYTES });
        }
        let texts = section.split(|&byte| byte == 0).filter(|text| !text.is_empty());
        bounded(texts.clone().count(), MAX_FIELDS)?;
        let field = |text| {
            let text = String::from_utf8_lossy(text);
            text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        };
        Ok(Self { fields: texts.filter_map(field).collect() })
    }

    /// The first value of a key: the one that the kernel takes.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields().find(|&(name, _)| name == key).map(|(_, value)| value)
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Every field, in its order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// For which kernel it was compiled. A module without is accepted by kernels that allow forced loading.
    pub fn vermagic(&self) -> Option<VerMagic> {
        self.get("vermagic").map(VerMagic::new)
    }

    /// The modules that export symbols it uses, by the names the linker found. What is no module name is left out.
    pub fn depends(&self) -> impl Iterator<Item = ModuleName> {
        self.get("depends").unwrap_or_default().split(',').filter_map(|name| ModuleName::new(name).ok())
    }

    /// All its soft dependencies.
    pub fn soft_dependencies(&self) -> SoftDependencies {
        let mut soft = SoftDependencies::default();
        self.all("softdep").for_each(|text| soft.extend_from(text));
        soft
    }

    /// Its parameters, in the order of their first mention.
    pub fn parameters(&self) -> Vec<ParameterInfo> {
        let mut parameters: Vec<ParameterInfo> = Vec::new();
        let mut places = HashMap::new();
        for (key, value) in self.fields() {
            let is_kind = key == "parmtype";
            let Some((name, text)) = value.split_once(':').filter(|_| is_kind || key == "parm") else {
                continue;
            };
            let index = *places.entry(name).or_insert_with(|| {
                parameters.push(ParameterInfo { name: name.to_owned(), kind: None, description: None });
                parameters.len() - 1
            });
            let Some(parameter) = parameters.get_mut(index) else { continue };
            *(if is_kind { &mut parameter.kind } else { &mut parameter.description }) = Some(text.to_owned());
        }
        parameters
    }

    /// The firmware files it may ask for, relative to the firmware directory.
    pub fn firmware(&self) -> impl Iterator<Item = &str> {
        self.all("firmware")
    }

    /// The device aliases it answers to: shell patterns such as `pci:v00008086d00001502sv*`.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.all("alias")
    }

    /// The symbol namespaces it imports.
    pub fn imported_namespaces(&self) -> impl Iterator<Item = &str> {
        self.all("import_ns")
    }

    /// Its licence. The kernel takes a module without one for proprietary.
    pub fn license(&self) -> Option<&str> {
        self.get("license")
    }

    /// Whether the kernel counts the licence as compatible with the GPL (`license_is_gpl_compatible` of
    /// `include/linux/license.h`), which opens the GPL-only symbols to it.
    pub fn is_gpl_compatible(&self) -> bool {
        const COMPATIBLE: [&str; 6] =
            ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"];
        self.license().is_some_and(|license| COMPATIBLE.contains(&license))
    }

    /// What `MODULE_VERSION` says.
    pub fn version(&self) -> Option<&str> {
        self.get("version")
    }

    /// The checksum of its sources; present where there is a version.
    pub fn source_version(&self) -> Option<&str> {
        self.get("srcversion")
    }

    /// Whether it was built with the kernel's own tree.
    pub fn is_in_tree(&self) -> bool {
        self.get("intree") == Some("Y")
    }

    /// Whether it was compiled with retpolines.
    pub fn has_retpoline(&self) -> bool {
        self.get("retpoline") == Some("Y")
    }
}
