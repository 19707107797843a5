//! What a kernel's image, its headers and its own modules say of it is the same.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::path::{Path, PathBuf};

use tenon_kmod::compression::decompress;
use tenon_kmod::facts::{Headers, KernelFacts, ModuleSurvey, Namespace};
use tenon_kmod::{KernelRelease, ModuleObject};
use tenon_lab::kernel::Kernel;
use tenon_lab::setup::Supplies;

fn from_image(kernel: &Kernel) -> KernelFacts {
    KernelFacts::from_image(&fs::read(kernel.boot_image()).unwrap()).unwrap()
}

fn from_headers(kernel: &Kernel) -> KernelFacts {
    let text = |path: &str| fs::read_to_string(kernel.headers().join(path)).unwrap();
    let (symvers, release, config) =
        (text("Module.symvers"), text("include/generated/utsrelease.h"), text(".config"));
    let headers = Headers { symvers: &symvers, release: &release, config: Some(&config), architecture: None };
    KernelFacts::from_headers(&headers).unwrap()
}

fn module_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            module_files(&path, files);
        } else if path.to_str().unwrap().contains(".ko") {
            files.push(path);
        }
    }
}

fn from_modules(kernel: &Kernel) -> KernelFacts {
    let mut files = Vec::new();
    module_files(&kernel.modules().join("kernel"), &mut files);
    assert!(files.len() > 500, "{} modules of {}", files.len(), kernel.release);
    let mut survey = ModuleSurvey::new(KernelRelease::new(kernel.release.as_str()).unwrap());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let bytes = decompress(&bytes, 64 << 20).unwrap();
        assert!(survey.add(&ModuleObject::parse(&bytes).unwrap()), "{}", file.display());
    }
    survey.finish().unwrap()
}

/// What the kernel itself exports.
fn of_the_kernel(facts: &KernelFacts) -> KernelFacts {
    let mut facts = facts.clone();
    facts.exports.retain(|_, symbol| symbol.provider.is_none());
    facts
}

#[test]
fn image_headers_and_modules_agree_about_every_kernel() {
    for kernel in Supplies::get().unwrap().kernels() {
        let (image, headers, modules) = (from_image(kernel), from_headers(kernel), from_modules(kernel));
        assert!(image.complete && image.exports.len() > 5000, "{}", kernel.release);
        assert!(image.build_id.is_some() && image.this_module_size.is_some(), "{}", kernel.release);
        assert_eq!(image.release.as_str(), kernel.release);
        assert_eq!(image.exports, of_the_kernel(&headers).exports, "{}", kernel.release);
        assert_eq!(image.vermagic, headers.vermagic);
        assert_eq!(image.vermagic, modules.vermagic);
        assert_eq!(image.this_module_size, modules.this_module_size);
        for (name, symbol) in &modules.exports {
            let told = headers.exports.get(name).unwrap_or_else(|| panic!("{name} of {}", kernel.release));
            assert_eq!((symbol.crc, &symbol.provider), (told.crc, &told.provider), "{name}");
            assert!(symbol.gpl_only.is_none_or(|gpl_only| Some(gpl_only) == told.gpl_only), "{name}");
            assert!(symbol.namespace == Namespace::Unknown || symbol.namespace == told.namespace, "{name}");
        }
        let known = modules.exports.values().filter(|symbol| symbol.provider.is_none()).count();
        assert!(known * 3 > image.exports.len(), "{known} symbols of {}", kernel.release);
        assert_eq!(image.policy.signatures, headers.policy.signatures);
        assert_eq!(image.policy.force_load, headers.policy.force_load);
        assert_eq!(image.policy.missing_imports_allowed, headers.policy.missing_imports_allowed);
        // They cannot contradict one another, or merging would say so.
        let merged = image.merge(headers).unwrap().merge(modules).unwrap();
        let encoded = merged.encode();
        assert!(encoded.len() < 512 << 10, "{} bytes of {}", encoded.len(), kernel.release);
        assert_eq!(KernelFacts::decode(&encoded).unwrap(), merged);
    }
}
