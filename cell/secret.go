package cell

import "log/slog"

// redacted stands wherever a secret would have been printed.
const redacted = "[redacted]"

// SecretRef names a secret kept by the datastore. References are safe to log,
// diff and show; a value never changes under its reference, so equal plans
// mean equal secrets. The empty reference means "no secret".
type SecretRef string

// Secret is a value that redacts itself in every form of output. Only
// [Secret.Reveal] gives the value back, so its uses can be searched for.
type Secret struct{ value string }

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the secret itself. Never pass the result to a logger or an error.
func (s Secret) Reveal() string { return s.value }

// Empty reports whether there is no value.
func (s Secret) Empty() bool { return s.value == "" }

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
