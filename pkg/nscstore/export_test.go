package nscstore

import "github.com/herald-nats/herald/pkg/keystore"

// WriteStep is Write with a function that is called before each change.
func WriteStep(dir string, form Form, s *Store, step func()) error {
	return write(dir, form, s, step)
}

// Decoders of single files, for the fuzz targets.

func ParseInfo(data []byte, name string) (bool, error)        { return parseInfo(data, name) }
func FormatInfo(name string, managed bool) ([]byte, error)    { return formatInfo(name, managed) }
func ParseKey(pub string, data []byte) (*keystore.Key, error) { return parseKey(pub, data) }
func ParseCreds(data []byte) (User, error)                    { return parseCreds(data) }
func ValidName(name string) error                             { return validName(name) }
