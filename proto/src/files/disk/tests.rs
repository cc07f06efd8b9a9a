use super::*;
use crate::id::Hash;
use NameFault as F;
use proptest::prelude::*;

fn manifest(paths: &[&str]) -> Manifest {
    let entry = |path: &&str| {
        let (path, folder) = match path.strip_suffix('/') {
            Some(folder) => (RelPath::new(folder).unwrap(), true),
            None => (RelPath::new(*path).unwrap(), false),
        };
        if folder {
            ManifestEntry::Folder { path, mode: 0o755 }
        } else {
            ManifestEntry::File { path, size: 0, hash: Hash::of(b""), mode: 0o644 }
        }
    };
    Manifest::new(paths.iter().map(entry).collect()).unwrap()
}

/// Returns the paths on the disk, in the order of the manifest, with `-` for an entry that is left out.
fn plan(paths: &[&str], rules: &DiskRules) -> (Manifest, DiskNames, Vec<String>) {
    let manifest = manifest(paths);
    let names = DiskNames::plan(&manifest, rules, &BTreeSet::new());
    let path = |at| names.path(&manifest, at).map_or("-".to_owned(), ToString::to_string);
    let planned = (0..manifest.entries().len()).map(path).collect();
    (manifest, names, planned)
}

#[test]
fn names_that_windows_refuses_are_changed() {
    let rules = DiskRules::new(Platform::Windows);
    let (manifest, names, planned) = plan(
        &["CON/", "CON/aux.txt", "CON/aux_.txt", "CON/b.", "CON/c", "a:b", "x\\y", "z"],
        &rules,
    );
    let expected =
        ["CON_", "CON_/aux_ (1).txt", "CON_/aux_.txt", "CON_/b_", "CON_/c", "a_b", "x_y", "z"];
    assert_eq!(planned, expected);
    let renamed: Vec<_> = names.renamed().map(|(at, _, fault)| (at, fault)).collect();
    let expected = [
        (0, F::WindowsDevice),
        (1, F::WindowsDevice),
        (3, F::TrailingDotOrSpace),
        (5, F::WindowsCharacter),
        (6, F::WindowsCharacter),
    ];
    assert_eq!(renamed, expected);
    for (at, path) in planned.iter().enumerate() {
        assert_eq!(names.entry_at(&manifest, &RelPath::new(path.as_str()).unwrap()), Some(at));
    }
    assert_eq!(names.entry_at(&manifest, &RelPath::new("CON/c").unwrap()), None);
}

#[test]
fn names_that_differ_only_in_case_get_different_names() {
    let paths = ["A/", "A/x", "a/", "a/x", "b.txt", "B.TXT"];
    let (_, names, planned) = plan(&paths, &DiskRules::new(Platform::Mac));
    assert_eq!(planned, ["A", "A/x", "B.TXT", "a (1)", "a (1)/x", "b (1).txt"]);
    assert!(names.renamed().all(|(.., fault)| fault == F::NameInUse));
    let (_, names, _) = plan(&paths, &DiskRules::new(Platform::Unix));
    assert_eq!(names, DiskNames::default());
}

#[test]
fn names_that_only_windows_refuses_are_kept_on_unix() {
    let paths = ["CON/", "CON/aux.txt", ".git/", ".git/-rf", "a\\b", "c:", "dot.", "nul"];
    let (_, names, _) = plan(&paths, &DiskRules::new(Platform::Unix));
    assert_eq!(names, DiskNames::default(), "hidden names in a folder are kept too");
    let (_, names, planned) = plan(&["x\u{202e}gpj.exe"], &DiskRules::new(Platform::Unix));
    assert_eq!(planned, ["x_gpj.exe"]);
    assert_eq!(names.renamed().next().unwrap().2, F::MisleadingCharacter);
}

#[test]
fn a_folder_with_too_long_a_name_is_left_out_with_its_content() {
    let rules = DiskRules { max_name: 5, max_path: 8, ..DiskRules::new(Platform::Unix) };
    let paths = ["abc/", "abc/de", "abc/fghij", "longer/", "longer/a", "z"];
    let (_, names, planned) = plan(&paths, &rules);
    assert_eq!(planned, ["abc", "abc/de", "-", "-", "-", "z"]);
    let left: Vec<_> = names.left_out().collect();
    assert_eq!(left, [(2, F::TooLongForDisk), (3, F::TooLongForDisk), (4, F::ParentNotWritten)]);
    assert!(names.is_left_out(4) && !names.is_left_out(5));
}

#[test]
fn a_name_that_the_disk_refuses_is_left_out() {
    let manifest = manifest(&["a:b/", "a:b/c", "d", "e:", "f?"]);
    let rules = DiskRules::new(Platform::Unix);
    let refused = BTreeSet::from([nonportable_part("12:30").unwrap()]);
    let names = DiskNames::plan(&manifest, &rules, &refused);
    let left: Vec<_> = names.left_out().collect();
    assert_eq!(left, [(0, F::RefusedByDisk), (1, F::ParentNotWritten), (3, F::RefusedByDisk)]);
    for (one, other) in [("a.", "b."), ("x:y?", "?:"), ("aux.txt", "AUX.c")] {
        assert!(
            nonportable_part(one).is_some() && nonportable_part(one) == nonportable_part(other),
            "{one}"
        );
    }
    for (one, other) in [("a.", "b "), ("x:", "?"), ("aux.txt", "con")] {
        assert_ne!(nonportable_part(one), nonportable_part(other), "{one}");
    }
    assert_eq!(nonportable_part("plain name-1.txt"), None);
}

#[test]
fn a_misleading_character_is_no_nonportable_part() {
    assert_eq!(nonportable_part("a\u{202e}b"), None);
    assert_eq!(nonportable_part("a\u{202e}:"), Some(":".to_owned()));
}

#[test]
fn changed_names_keep_within_the_limit_of_the_disk() {
    let rules = |platform, max_name| DiskRules { max_name, ..DiskRules::new(platform) };
    let (_, _, planned) = plan(&["ABCDEFGH.t", "abcdefgh.t"], &rules(Platform::Mac, 10));
    assert_eq!(planned, ["ABCDEFGH.t", "abcd (1).t"]);
    let (_, names, planned) = plan(&["AB.t", "ab.t"], &rules(Platform::Mac, 5));
    assert_eq!(planned, ["AB.t", "-"], "there is no room for a number");
    assert_eq!(names.left_out().next(), Some((1, F::NameInUse)));
    let (_, _, planned) = plan(&["AUX.txt", "CON"], &rules(Platform::Windows, 7));
    assert_eq!(planned, ["AU_.txt", "CON_"]);
    let short = rules(Platform::Windows, 6);
    assert_eq!(short.top_name(&FileName::new("CON.ab").unwrap()).0.as_str(), "CO_.ab");
}

#[test]
fn the_name_of_fetched_content_hides_nothing_and_is_no_option() {
    let name = |text: &str, platform| {
        let (name, fault) = DiskRules::new(platform).top_name(&FileName::new(text).unwrap());
        (name.to_string(), fault)
    };
    for (text, safe, fault) in [
        (".bash_profile", "_bash_profile", F::LeadingDot),
        ("..data", "_.data", F::LeadingDot),
        ("-rf", "_rf", F::LeadingDash),
        ("a\u{202e}gpj.exe", "a_gpj.exe", F::MisleadingCharacter),
        ("a\u{2066}b", "a_b", F::MisleadingCharacter),
        ("\u{200f}.x", "_.x", F::MisleadingCharacter),
        ("\u{61c}", "_", F::MisleadingCharacter),
    ] {
        for platform in [Platform::Unix, Platform::Mac, Platform::Windows] {
            assert_eq!(name(text, platform), (safe.to_owned(), Some(fault)), "{text:?}");
        }
    }
    for text in ["a.txt", "a-b", "..."] {
        let is_plain = text != "...";
        assert_eq!(name(text, Platform::Unix).1.is_none(), is_plain, "{text}");
    }
    assert_eq!(name("com1.txt", Platform::Windows), ("com1_.txt".into(), Some(F::WindowsDevice)));
    assert_eq!(name("com1.txt", Platform::Unix), ("com1.txt".into(), None));
    let short = DiskRules { max_name: 12, ..DiskRules::new(Platform::Unix) };
    let (long, fault) = short.top_name(&FileName::new("a long name.txt").unwrap());
    assert_eq!((long.as_str(), fault), ("a long n.txt", Some(F::TooLongForDisk)));
}

#[test]
fn the_stem_is_cut_to_make_room_for_a_suffix() {
    assert_eq!(with_suffix("a.txt", " (1)", true, 255), "a (1).txt");
    assert_eq!(with_suffix("v1.2", " (1)", false, 255), "v1.2 (1)");
    assert_eq!(with_suffix(".hidden", " (2)", true, 255), ".hidden (2)");
    let long = format!("{}.txt", "é".repeat(125));
    let numbered = with_suffix(&long, " (12)", true, 255);
    assert!(numbered.ends_with("é (12).txt") && numbered.len() <= 255, "{numbered}");
    let extension = format!("a.{}", "x".repeat(250));
    let numbered = with_suffix(&extension, " (1)", true, 255);
    assert!(numbered.starts_with("a.x") && numbered.ends_with("x (1)"), "{numbered}");
    assert_eq!(numbered.len(), 255);
}

#[test]
fn portable_names_are_no_paths_or_devices_on_windows_and_do_not_change_there() {
    for name in ["nul", "Con.tar.gz", "LPT¹.txt", "aux .txt", "a.", "a ", "...", "C:x", "a\\b"] {
        let name = FileName::new(name).unwrap();
        assert!(!name.is_portable(), "{name}");
        assert!(portable(&name).is_portable(), "{name}");
    }
    for name in ["a", ".hidden", "console.txt", "COM10", "2024-01-01T10:00.log"] {
        let name = FileName::new(name).unwrap();
        assert!(name.is_portable() && portable(&name) == name, "{name}");
    }
}

proptest! {
    #[test]
    fn every_name_becomes_one_that_its_platform_allows(
        name in "[a.:\\\\ \\-CON1é\u{202e}]{1,12}",
        max_name in 4usize..20,
    ) {
        let Ok(name) = FileName::new(name) else { return Ok(()) };
        for platform in [Platform::Unix, Platform::Mac, Platform::Windows] {
            let rules = DiskRules { max_name, ..DiskRules::new(platform) };
            let (safe, fault) = rules.top_name(&name);
            prop_assert_eq!(fault.is_none(), safe == name);
            prop_assert!(FileName::new(safe.as_str()).is_ok() && safe.as_str().len() <= max_name);
            prop_assert!(!safe.as_str().starts_with(['.', '-']));
            prop_assert!(platform != Platform::Windows || safe.is_portable());
        }
    }

    #[test]
    fn no_two_entries_get_the_same_path(
        tree in proptest::collection::btree_set("[aA_:.]{1,3}(/[aA_:.]{1,2}){0,1}", 0..12),
    ) {
        let mut paths = tree.clone();
        for path in &tree {
            if let Some((above, _)) = path.split_once('/') {
                paths.remove(above);
                paths.insert(format!("{above}/"));
            }
        }
        paths.retain(|path| RelPath::new(path.trim_end_matches('/')).is_ok());
        let above: BTreeSet<String> = paths.iter().filter(|p| p.ends_with('/')).cloned().collect();
        paths.retain(|p| !above.contains(&format!("{p}/")));
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        for platform in [Platform::Unix, Platform::Mac, Platform::Windows] {
            let (manifest, names, planned) = plan(&paths, &DiskRules::new(platform));
            let folds = |path: &String| if platform.ignores_case() { folded(path) } else { path.clone() };
            let distinct: BTreeSet<String> = planned.iter().map(folds).collect();
            prop_assert_eq!(distinct.len(), planned.len());
            for (at, path) in planned.iter().enumerate() {
                let path = RelPath::new(path.as_str()).unwrap();
                prop_assert_eq!(names.entry_at(&manifest, &path), Some(at));
            }
        }
    }
}
