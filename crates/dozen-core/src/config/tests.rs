use super::*;
use proptest::prelude::*;

fn var(value: &str, origin: Origin) -> Var {
    Var { value: value.to_owned(), origin, plain: false }
}

fn config(vars: &[(&str, &str, Origin)]) -> Config {
    Config { vars: vars.iter().map(|(name, value, origin)| ((*name).to_owned(), var(value, *origin))).collect() }
}

fn dotenv(vars: &[(&str, &str)]) -> BTreeMap<String, String> {
    vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn mask(values: &[&str]) -> Mask {
    let vars: Vec<Var> = values.iter().map(|v| var(v, Origin::Set)).collect();
    Mask::of(&vars)
}

#[test]
fn names_are_checked() {
    for good in ["A", "_", "a1_B", "HEROKU", "DOZEN", "_HEROKU_X", "PORT"] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in ["", "1A", "A-B", "A.B", "A B", "É", "A\0", "A=", " A"] {
        assert_eq!(check_name(bad), Err(ConfigError::Name(bad.to_owned())));
    }
    for reserved in ["HEROKU_", "HEROKU_APP_NAME", "DOZEN_X", "__", "__x"] {
        assert_eq!(check_name(reserved), Err(ConfigError::Reserved(reserved.to_owned())));
    }
}

#[test]
fn a_refused_variable_changes_nothing() {
    let mut config = config(&[("A", "1", Origin::Set)]);
    let before = config.clone();
    for (name, value) in [("1", "x"), ("DOZEN_A", "x"), ("A", "a\0b"), ("B", &"x".repeat(MAX_TOTAL))] {
        let refused = config.set(name, var(value, Origin::Set)).expect_err("refused");
        assert!(!refused.to_string().contains("a\0b"));
        assert_eq!(config, before);
    }
}

#[test]
fn the_size_limit_counts_names_and_values_and_what_is_replaced() {
    let mut config = Config::default();
    config.set("A", var(&"x".repeat(MAX_TOTAL - 1), Origin::Set)).expect("exactly the limit");
    assert_eq!(config.size(), MAX_TOTAL);
    assert_eq!(config.set("B", var("", Origin::Set)), Err(ConfigError::TooLarge(MAX_TOTAL + 1)));
    config.set("A", var(&"y".repeat(MAX_TOTAL - 1), Origin::Set)).expect("replaced by one of the same size");
    assert_eq!(config.set("A", var(&"y".repeat(MAX_TOTAL), Origin::Set)), Err(ConfigError::TooLarge(MAX_TOTAL + 1)));
    config.set("A", var("", Origin::Set)).expect("smaller");
    config.set("B", var("1", Origin::Set)).expect("now there is room");
    assert_eq!(config.size(), 3);
}

#[test]
fn dotenv_overrules_all_but_what_was_set_by_hand() {
    let old = config(&[
        ("BY_HAND", "set", Origin::Set),
        ("SAME", "same", Origin::Set),
        ("MADE", "generated", Origin::Generated),
        ("DEFAULT", "app.json", Origin::AppJson),
        ("OTHER", "app.json", Origin::AppJson),
        ("GONE", "old", Origin::DotEnv),
        ("KEPT", "old", Origin::DotEnv),
    ]);
    let file = dotenv(&[("BY_HAND", "env"), ("SAME", "same"), ("MADE", "env"), ("DEFAULT", "env"), ("KEPT", "new"), ("NEW", "new")]);
    let (new, overruled) = old.with_dotenv(&file).expect("valid");
    assert_eq!(
        new,
        config(&[
            ("BY_HAND", "set", Origin::Set),
            ("SAME", "same", Origin::Set),
            ("MADE", "env", Origin::DotEnv),
            ("DEFAULT", "env", Origin::DotEnv),
            ("OTHER", "app.json", Origin::AppJson),
            ("KEPT", "new", Origin::DotEnv),
            ("NEW", "new", Origin::DotEnv),
        ])
    );
    assert_eq!(overruled, ["BY_HAND"], "a value that is the same needs no warning");
    let changes = old.changes(&new);
    assert_eq!((changes.set.join(" "), changes.unset.join(" ")), ("DEFAULT KEPT MADE NEW".to_owned(), "GONE".to_owned()));
    assert_eq!(changes.describe(), "Set DEFAULT, KEPT, MADE, NEW config vars; Unset GONE config vars");
    let (again, _) = new.with_dotenv(&file).expect("valid");
    assert_eq!(again, new);
    assert!(new.changes(&again).is_empty());
    assert_eq!(new.changes(&again).describe(), "");
}

#[test]
fn dotenv_may_swap_a_large_variable_for_another() {
    let large = "x".repeat(MAX_TOTAL - 10);
    for (old, file) in [
        (config(&[("A", "1", Origin::DotEnv), ("B", &large, Origin::DotEnv)]), dotenv(&[("A", &large), ("B", "1")])),
        (config(&[("B", &large, Origin::AppJson)]), dotenv(&[("A", &large), ("B", "1")])),
    ] {
        let (new, _) = old.with_dotenv(&file).expect("what it ends with fits");
        assert_eq!(new.vars["A"].value, large);
    }
    let full = config(&[("B", &large, Origin::Set)]);
    assert!(matches!(full.with_dotenv(&dotenv(&[("A", &large)])), Err(ConfigError::TooLarge(_))));
}

#[test]
fn changes_are_of_values_not_of_origins() {
    let old = config(&[("A", "1", Origin::DotEnv), ("B", "2", Origin::Set)]);
    assert!(old.changes(&config(&[("A", "1", Origin::Set), ("B", "2", Origin::Set)])).is_empty());
    assert_eq!(old.changes(&Config::default()).describe(), "Unset A, B config vars");
}

#[test]
fn origins_are_read_back() {
    for origin in [Origin::Set, Origin::DotEnv, Origin::Generated, Origin::AppJson] {
        assert_eq!(Origin::parse(origin.as_str()), Some(origin));
    }
    assert_eq!(Origin::parse("by hand"), None);
}

#[test]
fn no_debug_shows_a_value() {
    let config = config(&[("A", "hunter2hunter2", Origin::Set)]);
    let shown = format!("{config:?} {:?} {:?}", config.vars["A"], Mask::of(config.vars.values()));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn values_are_masked_whole() {
    let m = mask(&["secret-one", "secret-one-and-more", "short", "true", "12345678"]);
    assert_eq!(m.apply("a secret-one-and-more b secret-one c"), format!("a {MASK} b {MASK} c"));
    assert_eq!(m.apply("short true 1234567"), "short true 1234567");
    assert_eq!(m.apply("1234567812345678"), format!("{MASK}{MASK}"));
    assert!(matches!(m.apply("nothing here"), Cow::Borrowed("nothing here")));
    assert_eq!(Mask::default().apply("x"), "x");
    assert_eq!(mask(&["", "\n\n"]).apply("x\n\ny"), "x\n\ny");
}

#[test]
fn a_plain_value_is_shown() {
    let plain = Var { plain: true, ..var("not-a-secret", Origin::Set) };
    assert_eq!(Mask::of([&plain]).apply("not-a-secret"), "not-a-secret");
}

#[test]
fn each_line_of_a_value_is_masked() {
    let m = mask(&["-----BEGIN KEY-----\r\nMIIabcdef\nab==\n-----END KEY-----"]);
    assert_eq!(m.apply("it says MIIabcdef"), format!("it says {MASK}"));
    assert_eq!(m.apply("-----BEGIN KEY-----\r\nMIIabcdef\nab==\n-----END KEY-----!"), format!("{MASK}!"));
    assert_eq!(m.apply("ab=="), "ab==", "a line shorter than a value that is masked");
}

#[test]
fn values_that_overlap_in_a_text_leave_no_rest() {
    let m = mask(&["abcdefgh", "efghijkl"]);
    assert_eq!(m.apply("abcdefghijkl."), format!("{MASK}."));
    assert_eq!(m.apply("efghijklabcdefgh"), format!("{MASK}{MASK}"));
    assert_eq!(mask(&["aabaaaabaa"]).apply("aabaaaabaaaabaa."), format!("{MASK}."), "a value that overlaps itself");
    assert_eq!(mask(&["********", "password"]).apply("password ********"), format!("{MASK} {MASK}"));
    assert_eq!(mask(&["éééééééé"]).apply("xéééééééééy"), format!("x{MASK}y"));
}

proptest! {
    #[test]
    fn no_text_shows_a_masked_value(values in proptest::collection::vec("[ab]{8,12}|[a-cé]{8,9}", 1..4), text in "[abcé \n]{0,80}", at in any::<prop::sample::Index>()) {
        let middle = text.floor_char_boundary(at.index(text.len() + 1));
        let text = format!("{}{}{}", &text[..middle], values.concat(), &text[middle..]);
        let all: Vec<&str> = values.iter().map(String::as_str).collect();
        let masked = mask(&all).apply(&text).into_owned();
        for value in &values {
            prop_assert!(!masked.contains(value.as_str()), "{masked}");
        }
        // What is hidden is one run of values, no more: every letter that stays stood beyond them.
        let kept: usize = masked.split(MASK).map(str::len).sum();
        let hidden: usize = { let mut hit = vec![false; text.len()]; for v in &values { for r in occurrences(&text, v) { hit[r].fill(true); } } hit.iter().filter(|h| **h).count() };
        prop_assert_eq!(kept + hidden, text.len());
    }
}
