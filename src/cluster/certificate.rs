//! Client certificates of kubeconfigs: their user, their validity, and when its end is reported. Pure.

use jiff::{SignedDuration, Timestamp};
use x509_parser::error::{PEMError, X509Error};
use x509_parser::nom;
use x509_parser::pem::Pem;

/// Users of certificates by `kube-vip kubeconfig` are this and the node's name.
pub const USER_PREFIX: &str = "kube-vip:";

/// The end of a validity is reported from this long before it, or for the last third of it where that is shorter.
const NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A problem that lasts is reported this often.
const REPEAT_INTERVAL: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name, which is the user's name in RBAC.
    pub user: String,
    /// The organizations, which are the user's groups.
    pub groups: Vec<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// The bits of the public key, without its algorithm.
    pub public_key: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("it contains no PEM block CERTIFICATE")]
    Missing,
    #[error("its PEM block is malformed: {0}")]
    Pem(#[from] PEMError),
    #[error("its certificate is malformed: {0}")]
    Malformed(#[from] nom::Err<X509Error>),
}

impl ClientCertificate {
    /// The first certificate of a PEM file, which is the client's where a chain follows.
    ///
    /// # Errors
    /// If there is none, or it is not an X.509 certificate.
    pub fn read(pem: &str) -> Result<Self, CertificateError> {
        for block in Pem::iter_from_buffer(pem.as_bytes()) {
            let block = block?;
            if block.label == "CERTIFICATE" {
                return Ok(Self::from(&block.parse_x509()?));
            }
        }
        Err(CertificateError::Missing)
    }

    /// Whether the end of the validity is near enough to be reported, or past.
    fn is_ending(&self, now: Timestamp) -> bool {
        let notice = NOTICE.min(self.not_after.duration_since(self.not_before) / 3);
        self.not_after.duration_since(now) < notice
    }

    /// What to do about the end of the validity, if that is near.
    pub fn problem(&self, now: Timestamp) -> Option<String> {
        if !self.is_ending(now) {
            return None;
        }
        let left = self.not_after.duration_since(now);
        let when = match left.as_hours() / 24 {
            _ if left.is_negative() => "expired".to_owned(),
            0 => "expires within a day".to_owned(),
            1 => "expires in 1 day".to_owned(),
            days => format!("expires in {days} days"),
        };
        let remedy = match self.user.starts_with(USER_PREFIX) {
            true => "run `kube-vip kubeconfig` on this node again",
            false => {
                "renew it (`kubeadm certs renew admin.conf`), or create one for kube-vip (`kube-vip kubeconfig`)"
            }
        };
        let Self { user, not_after, .. } = self;
        Some(format!("the client certificate of user {user} {when} ({not_after}): {remedy}"))
    }
}

impl From<&x509_parser::certificate::X509Certificate<'_>> for ClientCertificate {
    fn from(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Self {
        let (subject, validity) = (certificate.subject(), certificate.validity());
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().unwrap_or_default().to_owned()
        };
        // 99991231235959Z, for certificates without an end (RFC 5280, 4.1.2.5), is outside the range of `Timestamp`.
        let moment = |second, limit| Timestamp::from_second(second).unwrap_or(limit);
        Self {
            user: subject.iter_common_name().next().map(text).unwrap_or_default(),
            groups: subject.iter_organization().map(text).collect(),
            not_before: moment(validity.not_before.timestamp(), Timestamp::MIN),
            not_after: moment(validity.not_after.timestamp(), Timestamp::MAX),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        }
    }
}

/// Which certificates were reported: each at first, and then once a day.
#[derive(Debug, Clone, Default)]
pub struct Reminder {
    /// The end of the validity, and the time of the report.
    reported: Option<(Timestamp, Timestamp)>,
}

impl Reminder {
    /// The problem of a certificate, if it is to be reported now.
    #[must_use]
    pub fn problem(&mut self, certificate: &ClientCertificate, now: Timestamp) -> Option<String> {
        let problem = certificate.problem(now)?;
        let recently = self.reported.is_some_and(|(end, at)| {
            // The wall clock can be set back.
            end == certificate.not_after && now.duration_since(at).abs() < REPEAT_INTERVAL
        });
        if recently {
            return None;
        }
        self.reported = Some((certificate.not_after, now));
        Some(problem)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("{text}T00:00:00Z").parse().unwrap()
    }

    fn pem(end: (i32, u8, u8)) -> (String, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "kube-vip:node-1");
        params.distinguished_name.push(DnType::OrganizationName, "kube-vip:nodes");
        (params.not_before, params.not_after) =
            (date_time_ymd(2026, 1, 1), date_time_ymd(end.0, end.1, end.2));
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key)
    }

    fn valid(user: &str, from: &str, until: &str) -> ClientCertificate {
        let (user, groups, public_key) = (user.to_owned(), Vec::new(), Vec::new());
        ClientCertificate { user, groups, not_before: at(from), not_after: at(until), public_key }
    }

    #[test]
    fn a_certificate_is_read_with_its_user_groups_validity_and_key() {
        // Before and after 2050 the encodings differ: UTCTime and GeneralizedTime (RFC 5280, 4.1.2.5).
        for (end, text) in
            [((2027, 1, 1), "2027-01-01"), ((2049, 12, 31), "2049-12-31"), ((2050, 1, 1), "2050-01-01")]
        {
            let (pem, key) = pem(end);
            // Files of the kubelet begin with the key.
            for text_of_file in [pem.clone(), format!("{}{pem}", key.serialize_pem())] {
                let certificate = ClientCertificate::read(&text_of_file).unwrap();
                let expected = ClientCertificate {
                    groups: vec!["kube-vip:nodes".into()],
                    public_key: key.public_key_raw().to_vec(),
                    ..valid("kube-vip:node-1", "2026-01-01", text)
                };
                assert_eq!(certificate, expected);
            }
        }
        let (endless, _) = pem((9999, 12, 31));
        assert!(ClientCertificate::read(&endless).unwrap().problem(at("2026-01-01")).is_none());
    }

    #[test]
    fn what_is_no_certificate_is_an_error_that_names_the_problem() {
        let (_, key) = pem((2027, 1, 1));
        let table = [
            ("", "no PEM block CERTIFICATE"),
            ("-----BEGIN NONSENSE", "PEM block is malformed"),
            (&key.serialize_pem(), "no PEM block CERTIFICATE"),
            ("-----BEGIN CERTIFICATE-----\nMAA=\n", "PEM block is malformed"),
            ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "certificate is malformed"),
        ];
        for (text, expected) in table {
            let error = ClientCertificate::read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_end_of_a_validity_is_a_problem_in_its_last_thirty_days_or_third() {
        let (year, week) = (("2026-01-01", "2027-01-01"), ("2026-01-01", "2026-01-07"));
        let table = [
            (year, "2026-06-01", None),
            (year, "2026-12-02", None),
            (year, "2026-12-03", Some("expires in 29 days")),
            (year, "2026-12-31", Some("expires in 1 day ")),
            (year, "2027-01-01", Some("expires within a day")),
            (year, "2027-01-02", Some("expired (2027-01-01T00:00:00Z)")),
            // Short-lived ones are renewed by another program.
            (week, "2026-01-05", None),
            (week, "2026-01-06", Some("expires in 1 day ")),
        ];
        for ((from, until), now, expected) in table {
            let problem = valid("kube-vip:node-1", from, until).problem(at(now));
            let found = problem.as_deref();
            assert_eq!(found.is_some(), expected.is_some(), "{from} {until} {now}: {found:?}");
            assert!(expected.is_none_or(|part| found.unwrap().contains(part)), "{now}: {found:?}");
        }
    }

    #[test]
    fn the_remedy_depends_on_the_user() {
        for (user, remedy) in [
            ("kube-vip:node-1", "run `kube-vip kubeconfig` on this node again"),
            ("kubernetes-admin", "`kubeadm certs renew admin.conf`"),
        ] {
            let problem = valid(user, "2026-01-01", "2027-01-01").problem(at("2026-12-20")).unwrap();
            assert!(problem.contains(user) && problem.contains(remedy), "{problem}");
        }
    }

    #[test]
    fn a_problem_is_reported_at_once_and_then_every_day_for_each_certificate() {
        let (first, renewed) =
            (valid("a", "2026-01-01", "2027-01-01"), valid("a", "2026-12-20", "2027-12-20"));
        let other = valid("a", "2026-01-01", "2027-01-03");
        let hours = SignedDuration::from_hours;
        let start = at("2026-12-10");
        let mut reminder = Reminder::default();
        for (certificate, after, reported) in [
            (&first, hours(0), true),
            (&first, hours(1), false),
            (&first, hours(23), false),
            (&first, hours(24), true),
            (&first, hours(47), false),
            // The clock is set back by a day and more.
            (&first, hours(10), false),
            (&first, hours(-10), true),
            (&other, hours(-9), true),
            (&renewed, hours(300), false),
            (&first, hours(301), true),
        ] {
            let problem = reminder.problem(certificate, start + after);
            assert_eq!(problem.is_some(), reported, "{after:?}");
        }
    }
}
