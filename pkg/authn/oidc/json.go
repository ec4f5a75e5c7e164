package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and lists go; claims of real providers go 4 deep.
const maxDepth = 16

// object decodes one JSON object: text, json.Number, bool, nil, []any and
// map[string]any. A member that is there twice is refused at every depth, and so is text
// that is not the same after decoding: two readers must not see two tokens in one.
func object(data []byte) (map[string]any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := value(dec, 0)
	if err != nil {
		return nil, err
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	if len(bytes.TrimSpace(data[dec.InputOffset():])) > 0 {
		return nil, errors.New("something behind the JSON object")
	}
	return o, nil
}

func value(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d levels deep", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, errors.New("not JSON")
	}
	switch t := tok.(type) {
	case json.Delim:
		if t == '{' {
			return members(dec, depth)
		}
		return elements(dec, depth)
	case string:
		return text(t)
	default:
		return t, nil
	}
}

func members(dec *json.Decoder, depth int) (map[string]any, error) {
	o := make(map[string]any)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		s, ok := tok.(string)
		if !ok {
			return nil, errors.New("not JSON")
		}
		name, err := text(s)
		if err != nil {
			return nil, err
		}
		if _, twice := o[name]; twice {
			return nil, fmt.Errorf("the member %.40q is there twice", name)
		}
		if o[name], err = value(dec, depth+1); err != nil {
			return nil, err
		}
	}
	return o, end(dec)
}

func elements(dec *json.Decoder, depth int) ([]any, error) {
	list := []any{}
	for dec.More() {
		v, err := value(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, end(dec)
}

func end(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return errors.New("not JSON")
	}
	return nil
}

// text refuses the character that encoding/json puts in place of half a surrogate pair.
func text(s string) (string, error) {
	if strings.ContainsRune(s, utf8.RuneError) {
		return "", errors.New("text with a character that cannot be read")
	}
	return s, nil
}
