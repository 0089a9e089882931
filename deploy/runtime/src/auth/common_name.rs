//! The common name in a certificate's subject (X.509, in DER; RFC 5280, section 4.1).

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const OBJECT_ID: u8 = 0x06;
/// UTF8String, PrintableString, T61String and IA5String.
const TEXTS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];
/// 2.5.4.3
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// The name, where the subject has one: which of two would be meant is not known.
pub(crate) fn common_name(certificate: &[u8]) -> Option<String> {
    let mut outer = Der(certificate);
    let mut signed = Der(Der(outer.next_of(SEQUENCE)?).next_of(SEQUENCE)?);
    if signed.0.first() == Some(&VERSION) {
        signed.next()?;
    }
    // Serial number, algorithm, issuer, validity.
    (0..4).try_for_each(|_| signed.next().map(drop))?;
    let mut names = Vec::new();
    let mut subject = Der(signed.next_of(SEQUENCE)?);
    while !subject.0.is_empty() {
        let mut attributes = Der(subject.next_of(SET)?);
        while !attributes.0.is_empty() {
            let mut attribute = Der(attributes.next_of(SEQUENCE)?);
            if attribute.next_of(OBJECT_ID)? == COMMON_NAME {
                names.push(attribute.next().filter(|(tag, _)| TEXTS.contains(tag))?.1);
            }
        }
    }
    match names[..] {
        [name] => String::from_utf8(name.to_vec()).ok(),
        _ => None,
    }
}

/// Elements that follow each other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next one's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&length, mut rest) = rest.split_first()?;
        let mut size = usize::from(length & 0x7f);
        if length & 0x80 != 0 {
            // The length's own length; more than four bytes are no certificate.
            let (digits, behind) = rest.split_at_checked(size).filter(|_| size <= 4)?;
            size = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            rest = behind;
        }
        let (content, behind) = rest.split_at_checked(size)?;
        self.0 = behind;
        Some((tag, content))
    }

    /// The content of the next one, which has this tag.
    fn next_of(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair};

    use super::*;

    /// A certificate with these names, of an authority that has another one.
    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let params = |names: &[(DnType, &str)]| {
            let mut params = CertificateParams::new(["shop.example".to_owned()]).unwrap();
            params.distinguished_name = DistinguishedName::new();
            names.iter().for_each(|(of, name)| params.distinguished_name.push(of.clone(), *name));
            params
        };
        let authority = Issuer::new(params(&[(DnType::CommonName, "authority")]), KeyPair::generate().unwrap());
        params(names).signed_by(&KeyPair::generate().unwrap(), &authority).unwrap().der().to_vec()
    }

    /// Red when another part of the subject, or the issuer, is taken for the name, or when what is cut off makes the reader panic.
    #[test]
    fn the_common_name_is_found() {
        let whole = certificate(&[(DnType::OrganizationName, "Shop"), (DnType::CommonName, "till-7")]);
        assert_eq!(common_name(&whole).as_deref(), Some("till-7"));
        assert_eq!(common_name(&certificate(&[(DnType::OrganizationName, "till-7")])), None);
        assert_eq!(common_name(&certificate(&[])), None);
        for end in 0..whole.len() {
            assert_eq!(common_name(&whole[..end]), None, "cut after {end}");
        }
        assert_eq!(common_name(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 1]), None);
    }
}
