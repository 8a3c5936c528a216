package certs

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"fmt"

	"github.com/personal-internet-cell/pic/cell"
)

// RootPEM returns the root certificate as people install it: PEM with nothing around it.
func RootPEM(a *cell.Authority) ([]byte, error) {
	der, err := RootDER(a)
	if err != nil {
		return nil, err
	}
	return certPEM(der), nil
}

// RootDER returns the root certificate in DER.
func RootDER(a *cell.Authority) ([]byte, error) {
	c, err := parseCert(a.Root)
	if err != nil {
		return nil, fmt.Errorf("reading the root of authority %s: %w", a.ID, err)
	}
	return c.Raw, nil
}

// RootFingerprint is the SHA-256 of the root in the form that devices show: AB:CD:….
func RootFingerprint(a *cell.Authority) (string, error) {
	der, err := RootDER(a)
	if err != nil {
		return "", err
	}
	return fingerprint(der), nil
}

// MobileConfig returns an Apple configuration profile (unsigned property list,
// payload com.apple.security.root) that installs the root. Its UUIDs are
// derived from the certificate: installing it again replaces the profile.
func MobileConfig(a *cell.Authority, cellName string) ([]byte, error) {
	der, err := RootDER(a)
	if err != nil {
		return nil, err
	}
	payload := uuid("payload", der)
	var b bytes.Buffer
	b.WriteString(xml.Header)
	b.WriteString(`<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">` + "\n")
	b.WriteString("<plist version=\"1.0\">\n<dict>\n<key>PayloadContent</key>\n<array>\n<dict>\n")
	pair(&b, "PayloadType", "com.apple.security.root")
	pair(&b, "PayloadIdentifier", "ngo.pic.authority."+a.ID)
	pair(&b, "PayloadUUID", payload)
	pair(&b, "PayloadDisplayName", "Certificate authority of "+cellName)
	pair(&b, "PayloadDescription", "Lets this device trust the web pages of "+cellName+".")
	pair(&b, "PayloadCertificateFileName", a.ID+".cer")
	fmt.Fprintf(&b, "<key>PayloadVersion</key>\n<integer>1</integer>\n")
	fmt.Fprintf(&b, "<key>PayloadContent</key>\n<data>%s</data>\n", base64.StdEncoding.EncodeToString(der))
	b.WriteString("</dict>\n</array>\n")
	pair(&b, "PayloadType", "Configuration")
	pair(&b, "PayloadIdentifier", "ngo.pic.profile."+a.ID)
	pair(&b, "PayloadUUID", uuid("profile", der))
	pair(&b, "PayloadDisplayName", cellName)
	pair(&b, "PayloadOrganization", organization)
	b.WriteString("<key>PayloadVersion</key>\n<integer>1</integer>\n</dict>\n</plist>\n")
	return b.Bytes(), nil
}

// pair writes a key and a string; EscapeText also replaces what XML can't hold.
func pair(b *bytes.Buffer, key, value string) {
	b.WriteString("<key>" + key + "</key>\n<string>")
	_ = xml.EscapeText(b, []byte(value)) // a bytes.Buffer returns no error
	b.WriteString("</string>\n")
}

// uuid derives a version 8 UUID (RFC 9562 §5.8) from a label and data.
func uuid(label string, data []byte) string {
	h := sha256.Sum256(append([]byte(label+"\x00"), data...))
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
