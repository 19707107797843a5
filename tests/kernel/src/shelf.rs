//! What the loads are made of: a kernel of the lab, what is known of it, our drivers built for it, its own modules.

use std::fs;
use std::path::{Path, PathBuf};

use tenon_kmod::ModuleName;
use tenon_kmod::compression::decompress;
use tenon_kmod::dependency::DependencyIndex;
use tenon_kmod::facts::{Headers, KernelFacts};
use tenon_lab::drivers::{self, Driver};
use tenon_lab::kernel::{Kernel, Origin};

use crate::random::Random;

/// No module is larger.
const LIMIT: usize = 64 << 20;
/// Modules of the kernel's own that try things for minutes as soon as they are loaded.
const BENCHMARKS: [&str; 6] = ["test", "torture", "tcrypt", "kunit", "scale", "lkdtm"];

/// One kernel.
#[derive(Debug)]
pub struct Shelf {
    /// The lab's kernel.
    pub kernel: Kernel,
    /// What is known of it.
    pub facts: KernelFacts,
    /// Our drivers, in an order in which they load; none where nobody has built them.
    pub drivers: Vec<Module>,
    index: DependencyIndex,
    own: Vec<PathBuf>,
}

/// A module file.
#[derive(Debug, Clone)]
pub struct Module {
    /// As files are called.
    pub name: String,
    /// The file, unpacked.
    pub file: Vec<u8>,
}

impl Shelf {
    /// Fills a shelf.
    pub fn fill(kernel: Kernel) -> Self {
        let folder = kernel.modules();
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let index = DependencyIndex::from_modules_dep(&text("modules.dep")).unwrap();
        let listed = text("modules.dep");
        let paths = listed.lines().filter_map(|line| line.split_once(':')).map(|(path, _)| folder.join(path));
        let mut own: Vec<PathBuf> = paths.filter(|path| !is_benchmark(path)).collect();
        own.sort();
        let drivers = match kernel.origin {
            Origin::Stable | Origin::Backports => {
                Driver::ALL.into_iter().flat_map(|driver| built(&kernel, driver)).collect()
            }
            // They want another compiler.
            Origin::Unstable | Origin::NewerBackports => Vec::new(),
        };
        // The image alone tells nearly everything that counts; the configuration, where there are headers, the rest.
        let image = KernelFacts::from_image(&fs::read(kernel.vmlinux()).unwrap()).unwrap();
        let facts = match fs::read_to_string(kernel.headers().join(".config")) {
            Ok(config) => {
                let (symvers, release, architecture) = ("", kernel.release.as_str(), None);
                let headers = Headers { symvers, release, config: Some(&config), architecture };
                image.merge(KernelFacts::from_headers(&headers).unwrap()).unwrap()
            }
            Err(_) => image,
        };
        Self { kernel, facts, drivers, index, own }
    }

    /// A driver of ours.
    pub fn driver(&self, name: &str) -> Option<&Module> {
        self.drivers.iter().find(|driver| driver.name == name)
    }

    /// One of the kernel's own modules, by the name of its file.
    pub fn in_tree(&self, name: &str) -> Module {
        let path = self.own.iter().find(|path| module_name(path) == name);
        read(path.unwrap_or_else(|| panic!("{} has no module {name}", self.kernel.release)))
    }

    /// The file of one of the kernel's own modules as it is shipped.
    pub fn packed(&self, name: &str) -> Vec<u8> {
        fs::read(self.own.iter().find(|path| module_name(path) == name).unwrap()).unwrap()
    }

    /// Some of the kernel's own modules.
    pub fn sample(&self, random: &mut Random, count: usize) -> Vec<Module> {
        (0..count).map(|_| read(random.pick::<PathBuf>(&self.own))).collect()
    }

    /// What a module of the kernel's own needs, and the module: in an order in which they load.
    pub fn with_dependencies(&self, module: &Module) -> Vec<Module> {
        let name = ModuleName::new(&module.name).unwrap();
        let order = self.index.load_order(&name).unwrap();
        order.iter().map(|step| read(&self.kernel.modules().join(&step.path))).collect()
    }
}

fn is_benchmark(path: &Path) -> bool {
    let name = module_name(path);
    BENCHMARKS.iter().any(|word| name.contains(word))
}

fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap().to_string_lossy();
    file.split(".ko").next().unwrap().to_owned()
}

fn read(path: &Path) -> Module {
    let packed = fs::read(path).unwrap();
    Module { name: module_name(path), file: decompress(&packed, LIMIT).unwrap().into_owned() }
}

fn built(kernel: &Kernel, driver: Driver) -> Vec<Module> {
    let built = drivers::build(kernel, driver.into()).unwrap();
    built.files().iter().map(|path| read(path)).collect()
}
