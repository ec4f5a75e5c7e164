package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// object splits one JSON object into its members. encoding/json alone would
// take the last of two equal members, match names in any case, replace broken
// UTF-8 and pass over unknown members; whoever signs and whoever checks must
// not be able to read one body in two ways.
func object(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	tok, err := dec.Token()
	if err != nil {
		return nil, errors.New("not JSON")
	}
	if tok != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members := make(map[string]json.RawMessage)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		name, ok := tok.(string)
		if !ok {
			return nil, errors.New("not JSON")
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("the field %.40q is there twice", name)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, errors.New("not JSON")
		}
		members[name] = v
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, errors.New("not JSON")
	}
	if dec.More() || len(bytes.TrimSpace(data[dec.InputOffset():])) > 0 {
		return nil, errors.New("there is something behind the JSON object")
	}
	return members, nil
}

// field is one member of an object: its name and where its value goes.
type field struct {
	name string
	into any
	must bool
}

// fill decodes an object's members into fields and refuses every other.
func fill(data []byte, fields ...field) error {
	members, err := object(data)
	if err != nil {
		return err
	}
	for _, f := range fields {
		raw, ok := members[f.name]
		if !ok {
			if f.must {
				return fmt.Errorf("the field %q is missing", f.name)
			}
			continue
		}
		if bytes.Equal(raw, []byte("null")) {
			return fmt.Errorf("the field %q is null", f.name)
		}
		if err := json.Unmarshal(raw, f.into); err != nil {
			return fmt.Errorf("the field %q: %w", f.name, plain(err))
		}
		delete(members, f.name)
	}
	for name := range members {
		return fmt.Errorf("the field %.40q is unknown", name)
	}
	return nil
}

// plain drops what encoding/json says of Go types: it tells a caller nothing.
func plain(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return errors.New("a value of the wrong type")
	}
	return err
}
