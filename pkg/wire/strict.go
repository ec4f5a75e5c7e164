package wire

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// member is one member of an object, its value as it stands there.
type member struct {
	name []byte
	raw  []byte
}

// members are those of one JSON object. encoding/json alone would take the last of two equal
// ones, match names in any case, replace broken UTF-8 and pass over unknown members; whoever
// signs and whoever checks must not be able to read one body in two ways.
//
// encoding/json says what is JSON; where its members begin and end is then found in one pass,
// which costs a fifth of what its decoder does.
func members(data []byte) ([]member, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	if !json.Valid(data) {
		return nil, notValid(data)
	}
	at := space(data, 0)
	if data[at] != '{' {
		return nil, errors.New("not a JSON object")
	}
	all := make([]member, 0, 12)
	for at = space(data, at+1); data[at] != '}'; {
		end := text(data, at)
		name, err := unquoted(data[at:end])
		if err != nil {
			return nil, errors.New("not JSON")
		}
		for _, m := range all {
			if bytes.Equal(m.name, name) {
				return nil, fmt.Errorf("the field %.40q is there twice", name)
			}
		}
		at = space(data, space(data, end)+1) // behind the colon
		end = value(data, at)
		all = append(all, member{name, data[at:end]})
		if len(all) > maxMembers {
			return nil, errors.New("an object of too many fields")
		}
		if at = space(data, end); data[at] == ',' {
			at = space(data, at+1)
		}
	}
	return all, nil
}

// maxMembers bounds an object: each of its names is held against those before.
const maxMembers = 64

// notValid says what is wrong with what is no JSON, or more than one value.
func notValid(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	var v json.RawMessage
	if err := d.Decode(&v); err != nil {
		return errors.New("not JSON")
	}
	if v[0] != '{' {
		return errors.New("not a JSON object")
	}
	return errors.New("there is something behind the JSON object")
}

// The functions below walk over what is valid JSON, from a place within it.

// space gives the next place that is no white space.
func space(data []byte, at int) int {
	for data[at] == ' ' || data[at] == '\t' || data[at] == '\n' || data[at] == '\r' {
		at++
	}
	return at
}

// text gives the end of the text that begins there.
func text(data []byte, at int) int {
	for at++; data[at] != '"'; at++ {
		if data[at] == '\\' {
			at++
		}
	}
	return at + 1
}

// value gives the end of the value that begins there.
func value(data []byte, at int) int {
	for depth := 0; ; {
		switch data[at] {
		case '"':
			at = text(data, at)
		case '{', '[':
			depth++
			at++
		case '}', ']':
			depth--
			at++
		case ',', ':', ' ', '\t', '\n', '\r':
			at++
		default: // a number, or a word
			for at < len(data) && !strings.ContainsRune("]}, \t\n\r", rune(data[at])) {
				at++
			}
		}
		if depth == 0 {
			return at
		}
	}
}

// unquoted reads a text.
func unquoted(raw []byte) ([]byte, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return []byte(s), err
}

// field is one member of an object: its name and where its value goes.
type field struct {
	name string
	into any
	must bool
}

// fill decodes an object's members into fields and refuses every other.
func fill(data []byte, fields ...field) error {
	all, err := members(data)
	if err != nil {
		return err
	}
	known := 0
	for _, f := range fields {
		i := slices.IndexFunc(all, func(m member) bool { return string(m.name) == f.name })
		if i < 0 {
			if f.must {
				return fmt.Errorf("the field %q is missing", f.name)
			}
			continue
		}
		if string(all[i].raw) == "null" {
			return fmt.Errorf("the field %q is null", f.name)
		}
		if err := decode(all[i].raw, f.into); err != nil {
			return fmt.Errorf("the field %q: %w", f.name, plain(err))
		}
		known++
	}
	if known == len(all) {
		return nil
	}
	for _, m := range all {
		if !slices.ContainsFunc(fields, func(f field) bool { return f.name == string(m.name) }) {
			return fmt.Errorf("the field %.40q is unknown", m.name)
		}
	}
	return nil
}

// decode is json.Unmarshal, and does what is common itself.
func decode(raw []byte, into any) error {
	isText := raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0
	switch to := into.(type) {
	case *json.RawMessage:
		*to = raw
		return nil
	case *string:
		if isText {
			*to = string(raw[1 : len(raw)-1])
			return nil
		}
	case **string:
		if isText {
			s := string(raw[1 : len(raw)-1])
			*to = &s
			return nil
		}
	case encoding.TextUnmarshaler:
		if isText {
			return to.UnmarshalText(raw[1 : len(raw)-1])
		}
	}
	return json.Unmarshal(raw, into)
}

// plain drops what encoding/json says of Go types: it tells a caller nothing.
func plain(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return errors.New("a value of the wrong type")
	}
	return err
}
