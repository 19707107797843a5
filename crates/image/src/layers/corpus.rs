//! Layers as attackers and odd tools write them, and the ones that real tools write.

use std::io::{Seek as _, Write as _};

use super::*;

/// A tar archive, entry by entry, without the care that a tar library takes.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    pub(crate) fn entry(mut self, flag: u8, name: &str, target: &str, content: &[u8]) -> Self {
        self.header(flag, name, target, content.len() as u64);
        self.content(content)
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, "", content.as_bytes())
    }

    pub(crate) fn program(mut self, name: &str, content: &str) -> Self {
        let at = self.0.len();
        self.header(b'0', name, "", content.len() as u64);
        self.0[at + 100..at + 107].copy_from_slice(b"0000755");
        self.sum(at);
        self.content(content.as_bytes())
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(b'5', name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let record = |(key, value): &(&str, &str)| {
            let body = format!(" {key}={value}\n");
            // The length counts itself: two digits are enough here, or three.
            let length = if body.len() + 2 < 100 { body.len() + 2 } else { body.len() + 3 };
            format!("{length}{body}")
        };
        let text: String = records.iter().map(record).collect();
        self.entry(b'x', "pax", "", text.as_bytes())
    }

    fn header(&mut self, flag: u8, name: &str, target: &str, size: u64) {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[156] = flag;
        header[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        self.0.extend(header);
        self.sum(self.0.len() - header.len());
    }

    fn sum(&mut self, at: usize) {
        let header = &mut self.0[at..at + 512];
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn layer(mut self) -> Layer {
        self.0.extend([0; 1024]);
        stored(&self.0)
    }
}

fn stored(bytes: &[u8]) -> Layer {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    Layer { digest: Digest::of(bytes), size: bytes.len() as u64, file, shared: false }
}

pub(crate) fn flatten(layers: impl IntoIterator<Item = Archive>) -> Result<ImageFiles, LayersError> {
    ImageFiles::flatten(layers.into_iter().map(Archive::layer).collect(), &Limits::default())
}

/// Every file with its content, by path.
pub(crate) fn contents(image: &ImageFiles) -> Vec<(String, String)> {
    let walked = image.tree().walk(&"/".parse().unwrap(), &|_| false).unwrap().unwrap();
    let files = walked.into_iter().filter_map(|walked| match walked.found {
        Found::File(at) => Some((String::from_utf8(walked.path).unwrap(), at)),
        _ => None,
    });
    files.map(|(path, at)| (path, content(image, at))).collect()
}

fn content(image: &ImageFiles, at: FileAt) -> String {
    let mut text = String::new();
    let mut take = |_, content: &mut dyn Read| {
        content.read_to_string(&mut text).unwrap();
        Ok(())
    };
    image.read(&[at].into(), &mut take, &|error| error).unwrap();
    text
}

fn paths(image: &ImageFiles) -> Vec<String> {
    contents(image).into_iter().map(|(path, _)| path).collect()
}

fn refusal(archive: Archive) -> String {
    let error = flatten([archive]).unwrap_err();
    let source = std::error::Error::source(&error).expect("a cause below the layer");
    source.to_string()
}

#[test]
fn names_that_lead_upwards_are_refused() {
    for name in ["../evil", "opt/../../evil", "opt/.."] {
        assert!(refusal(Archive::default().file(name, "x")).contains(name));
    }
    assert!(
        refusal(Archive::default().file("a", "x").hardlink("opt/evil.ko", "../../etc/shadow"))
            .contains("etc/shadow")
    );
    let long = format!("x/{}", "n".repeat(256));
    assert!(refusal(Archive::default().pax(&[("path", &long)]).file("x", "")).contains("too long"));
}

#[test]
fn names_from_the_root_are_inside_the_image() {
    let image =
        flatten([Archive::default().file("/opt/a", "1").file("./opt/./b", "2").hardlink("opt/c", "/opt/a")])
            .unwrap();
    let expected = [("opt/a", "1"), ("opt/b", "2"), ("opt/c", "1")];
    assert_eq!(contents(&image), expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
}

#[test]
fn entries_below_a_link_out_of_the_image_are_refused() {
    let archive = Archive::default().symlink("opt", "../../../etc").file("opt/passwd", "x");
    let error = flatten([archive]).unwrap_err();
    assert!(matches!(
        error,
        LayersError::Tree { source: TreeError::Place { source: LinkError::Escape, .. }, .. }
    ));
    let archive = Archive::default().symlink("a", "b").symlink("b", "a").file("a/x", "x");
    let error = flatten([archive]).unwrap_err();
    assert!(matches!(
        error,
        LayersError::Tree { source: TreeError::Place { source: LinkError::Loop, .. }, .. }
    ));
}

#[test]
fn links_out_of_the_image_lead_nowhere() {
    let image = flatten([Archive::default()
        .symlink("opt/up.ko", "../../etc/shadow")
        .symlink("opt/shadow.ko", "/etc/shadow")
        .symlink("opt/dir", "/opt")])
    .unwrap();
    let walked = image.tree().walk(&"/opt".parse().unwrap(), &|_| false).unwrap().unwrap();
    let broken: Vec<_> = walked.iter().map(|walked| walked.found).collect();
    let expected = [LinkError::Loop, LinkError::Dangling, LinkError::Escape].map(Found::Broken);
    assert_eq!(broken, expected);
}

#[test]
fn hard_links_to_nothing_are_refused() {
    assert_eq!(
        refusal(Archive::default().hardlink("a", "etc/shadow")),
        "entry \"a\" is a hard link to nothing"
    );
    assert_eq!(
        refusal(Archive::default().directory("d").hardlink("a", "d")),
        "entry \"a\" is a hard link to nothing"
    );
}

#[test]
fn headers_that_contradict_each_other_are_refused() {
    assert!(refusal(Archive::default().pax(&[("size", "5")]).file("a", "x")).contains("contradict"));
    let both =
        Archive::default().entry(b'L', "././@LongLink", "", b"one\0").pax(&[("path", "two")]).file("a", "x");
    assert!(refusal(both).contains("path"));
    let same =
        Archive::default().entry(b'L', "././@LongLink", "", b"one\0").pax(&[("path", "one")]).file("a", "x");
    assert_eq!(paths(&flatten([same]).unwrap()), ["one"]);
    assert!(
        refusal(Archive::default().pax(&[("path", "a"), ("path", "b")]).file("a", "x"))
            .contains("extended header")
    );
    assert!(refusal(Archive::default().pax(&[]).pax(&[]).file("a", "x")).contains("extended header"));
    assert!(refusal(Archive::default().file("a", "x").pax(&[("path", "b")])).contains("extended header"));
    assert!(
        refusal(Archive::default().entry(b'g', "g", "", b"10 path=b\n").file("a", "x"))
            .contains("extended header")
    );
    let comment = Archive::default().entry(b'g', "g", "", b"13 comment=x\n").file("a", "x");
    assert_eq!(paths(&flatten([comment]).unwrap()), ["a"]);
}

#[test]
fn extended_headers_are_bounded() {
    let mut archive = Archive::default();
    archive.header(b'x', "pax", "", 1 << 32);
    assert!(refusal(archive.content(b"12 path=abc\n")).contains("too long"));
}

#[test]
fn sparse_and_odd_entries_are_refused() {
    for flag in [b'S', b'V', b'M', b'D', b'N', b'Z'] {
        assert!(
            refusal(Archive::default().entry(flag, "odd", "", b"")).contains("odd"),
            "{}",
            char::from(flag)
        );
    }
    let sparse = Archive::default().pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "10737418240")]);
    assert!(refusal(sparse.file("disk", "x")).contains("extended header"));
    assert!(
        refusal(Archive::default().entry(b'5', "dir", "", b"content")).contains("only files have content")
    );
    assert!(refusal(Archive::default().entry(b'0', "dir/", "", b"content")).contains("dir/"));
}

#[test]
fn devices_are_no_files() {
    let image =
        flatten([Archive::default().entry(b'3', "dev/null", "", b"").entry(b'6', "opt/pipe.ko", "", b"")])
            .unwrap();
    let walked = image.tree().walk(&"/".parse().unwrap(), &|_| false).unwrap().unwrap();
    assert!(walked.iter().all(|walked| walked.found == Found::Special) && walked.len() == 2);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "opt/.wh.."] {
        assert!(refusal(Archive::default().file(name, "")).contains("whiteout"), "{name}");
    }
    assert!(flatten([Archive::default().file(".wh..wh.plnk", "").file("no/such/.wh.dir", "")]).is_ok());
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = || Archive::default().file("d/a", "low").file("d/b", "low").file("e", "low");
    let hides_after =
        Archive::default().file("d/a", "up").file("d/.wh.a", "").file("d/.wh.b", "").file(".wh.e", "");
    assert_eq!(contents(&flatten([lower(), hides_after]).unwrap()), [("d/a".to_owned(), "up".to_owned())]);
    let opaque_last = Archive::default().file("d/c", "up").file("d/.wh..wh..opq", "");
    assert_eq!(paths(&flatten([lower(), opaque_last]).unwrap()), ["d/c", "e"]);
    let whole = Archive::default().file(".wh.d", "").file("d/new", "up");
    assert_eq!(paths(&flatten([lower(), whole]).unwrap()), ["d/new", "e"]);
}

#[test]
fn what_is_no_directory_replaces_one_and_the_reverse() {
    let lower = Archive::default().file("d/a", "low").file("f", "low");
    let upper = Archive::default().file("d", "now a file").directory("f").file("f/x", "now a directory");
    assert_eq!(paths(&flatten([lower, upper]).unwrap()), ["d", "f/x"]);
    let below_a_file = [Archive::default().file("f", "x"), Archive::default().file("f/x", "y")];
    assert!(flatten(below_a_file).is_err());
}

#[test]
fn a_merged_usr_is_one_directory() {
    let base = Archive::default().directory("usr/lib").symlink("lib", "usr/lib").symlink("opt/lib", "/lib");
    let old_style = Archive::default().file("lib/modules/k/a.ko", "a");
    let new_style = Archive::default().file("usr/lib/modules/k/b.ko", "b").file("lib/modules/k/.wh.gone", "");
    let image = flatten([base, old_style, new_style]).unwrap();
    for directory in ["/lib/modules/k", "/usr/lib/modules/k", "/opt/lib/modules/k"] {
        let walked = image.tree().walk(&directory.parse().unwrap(), &|_| false).unwrap().unwrap();
        let names: Vec<_> = walked.iter().map(|walked| walked.path.as_slice()).collect();
        assert_eq!(names, [b"a.ko", b"b.ko"], "{directory}");
    }
    assert_eq!(image.tree().directories_in(&"/lib/modules".parse().unwrap()), Some(vec!["k".to_owned()]));
}

#[test]
fn hard_links_reach_into_lower_layers_and_survive_their_target() {
    let lower = Archive::default().file("a.ko", "bytes");
    let upper = Archive::default().hardlink("b.ko", "a.ko").file(".wh.a.ko", "");
    assert_eq!(contents(&flatten([lower, upper]).unwrap()), [("b.ko".to_owned(), "bytes".to_owned())]);
}

#[test]
fn compressed_layers_are_told_by_their_bytes() {
    let plain = || {
        let mut bytes = Archive::default().file("a", "x").0;
        bytes.extend([0; 1024]);
        bytes
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain()).unwrap();
    let chunked =
        [b"\x50\x2a\x4d\x18\x04\0\0\0skip".to_vec(), zstd::encode_all(&*plain(), 3).unwrap()].concat();
    for bytes in [plain(), gzip.finish().unwrap(), zstd::encode_all(&*plain(), 3).unwrap(), chunked] {
        let image = ImageFiles::flatten(vec![stored(&bytes)], &Limits::default()).unwrap();
        assert_eq!(paths(&image), ["a"]);
    }
}

#[test]
fn damaged_and_truncated_layers_are_refused() {
    let mut bytes = Archive::default().file("a", "x").0;
    bytes.extend([0; 1024]);
    let compressed = zstd::encode_all(&*bytes, 3).unwrap();
    for cut in [&bytes[..700], &bytes[..512], &compressed[..compressed.len() - 4]] {
        let error = ImageFiles::flatten(vec![stored(cut)], &Limits::default()).unwrap_err();
        assert!(
            matches!(error, LayersError::Archive { source: ArchiveError::Damaged(_), .. }),
            "{}",
            cut.len()
        );
    }
    bytes.extend(*b"more");
    let error = ImageFiles::flatten(vec![stored(&bytes)], &Limits::default()).unwrap_err();
    assert!(matches!(error, LayersError::Archive { source: ArchiveError::Trailing, .. }));
}

#[test]
fn bombs_end_at_the_limits() {
    let limits = Limits { entries: 100, names: 1000, expanded: 1 << 20, ..Limits::default() };
    let flatten = |archive: Archive| ImageFiles::flatten(vec![archive.layer()], &limits).unwrap_err();
    let many = (0..101).fold(Archive::default(), |archive, index| archive.file(&format!("{index}"), ""));
    assert!(matches!(flatten(many), LayersError::Tree { source: TreeError::TooManyEntries(100), .. }));
    let deep = Archive::default().pax(&[("path", &"a/".repeat(400))]).directory("x");
    assert!(matches!(flatten(deep), LayersError::Tree { source: TreeError::TooManyEntries(100), .. }));
    let wordy = (0..20)
        .fold(Archive::default(), |archive, index| archive.symlink(&format!("{index}"), &"t".repeat(90)));
    assert!(matches!(flatten(wordy), LayersError::Tree { source: TreeError::TooManyNames(1000), .. }));

    let mut zeros = Archive::default();
    zeros.header(b'0', "zeros", "", 2 << 20);
    zeros.0.resize(zeros.0.len() + (2 << 20), 0);
    let packed = zstd::encode_all(&*zeros.0, 3).unwrap();
    let error = ImageFiles::flatten(vec![stored(&packed)], &limits).unwrap_err();
    assert!(matches!(error, LayersError::Archive { source: ArchiveError::Expansion, .. }));
}

#[test]
fn links_that_multiply_names_are_bounded() {
    let mut archive = Archive::default().file("d0/x", "");
    for index in 1..40 {
        let (name, target) = (format!("d{index}"), format!("../d{}", index - 1));
        archive = archive.symlink(&format!("{name}/a"), &target).symlink(&format!("{name}/b"), &target);
    }
    let image = flatten([archive]).unwrap();
    assert!(image.tree().walk(&"/d39".parse().unwrap(), &|_| false).is_err());
}
