//! What an account may look like: addresses, passwords, names of service accounts and of projects.
//!
//! Pure. Never knows who else is there. Called by both doors of the coordinator and by its service.

/// Characters of a password, least and most.
pub const PASSWORD: (usize, usize) = (8, 100);

/// The domain of service accounts; nobody registers there.
pub const SERVICE_DOMAIN: &str = "service.local";

/// Fields of a profile that their user may set, with the most characters of each.
pub const PROFILE: [(&str, usize); 10] = [
    ("full_name", 200),
    ("company", 200),
    ("company_custom", 200),
    ("division", 200),
    ("division_custom", 200),
    ("department", 200),
    ("phone_number", 50),
    ("bio", 2_000),
    ("badge_color", 50),
    ("avatar_name", 100),
];

/// The one form in which addresses are kept and compared.
#[must_use]
pub fn normal_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// What is wrong with an e-mail address, if anything.
#[must_use]
pub fn email_problem(email: &str) -> Option<&'static str> {
    let email = email.trim();
    let Some((local, domain)) = email.rsplit_once('@') else {
        return Some("An email address must have an @-sign.");
    };
    let strange = |c: char| c.is_whitespace() || c.is_control() || "@<>()[],;:\\\"".contains(c);
    let dotted = |text: &str| text.split('.').all(|part| !part.is_empty());
    let label = |part: &str| {
        let inner = |c: char| c.is_alphanumeric() || c == '-';
        part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    if local.is_empty() {
        Some("There must be something before the @-sign.")
    } else if local.len() > 64 || email.len() > 254 {
        Some("The email address is too long.")
    } else if local.contains(strange) || !dotted(local) {
        Some("The part before the @-sign contains characters or dots that are not allowed there.")
    } else if domain.is_empty() {
        Some("There must be something after the @-sign.")
    } else if !domain.contains('.') || !dotted(domain) || !domain.split('.').all(label) {
        Some("The part after the @-sign is not a domain; it should have a period.")
    } else if domain.eq_ignore_ascii_case(SERVICE_DOMAIN) {
        Some("The domain service.local is that of service accounts.")
    } else {
        None
    }
}

/// Whether a password has an allowed length.
#[must_use]
pub fn password_fits(password: &str) -> bool {
    (PASSWORD.0..=PASSWORD.1).contains(&password.chars().count())
}

/// What is wrong with the name of a service account or of an API key, if anything.
#[must_use]
pub fn name_problem(name: &str) -> Option<&'static str> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let good = first && name.len() <= 63 && name.chars().all(fits);
    (!good).then_some("must be 1 to 63 of a-z, 0-9, '-', '_' and '.', the first a letter or digit")
}

/// What is wrong with a project's name, if anything.
#[must_use]
pub fn project_name_problem(name: &str) -> Option<&'static str> {
    let count = name.chars().count();
    let good =
        name.trim() == name && (1..=100).contains(&count) && !name.contains(char::is_control);
    (!good).then_some("must be 1 to 100 characters without blanks at its ends")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mail_servers_take_are_taken() {
        for good in [
            "ada@example.com",
            "a.b+c@sub.example.org",
            " Ada@Example.COM ",
        ] {
            assert_eq!(email_problem(good), None, "{good}");
        }
        assert_eq!(normal_email(" Ada@Example.COM "), "ada@example.com");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        let long = format!("{}@example.com", "x".repeat(65));
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@example",
            "a b@example.com",
            "a..b@example.com",
            "ada@-x.com",
            "ada@x..com",
            "ci@service.local",
            "a\n@example.com",
            &long,
        ] {
            assert!(email_problem(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn names_and_passwords_have_their_bounds() {
        assert!(!password_fits("1234567") && password_fits("12345678"));
        assert!(password_fits(&"ä".repeat(100)) && !password_fits(&"x".repeat(101)));
        assert_eq!(name_problem("ci-runner.2"), None);
        for bad in ["", "-x", "A", "a/b", "a b"] {
            assert!(name_problem(bad).is_some(), "{bad:?}");
        }
        assert!(project_name_problem("Face detection").is_none());
        assert!(project_name_problem(" x").is_some() && project_name_problem("").is_some());
    }
}
