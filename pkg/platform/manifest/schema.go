package manifest

import _ "embed" // the schema

//go:embed schema.json
var schema string

// Schema is the JSON Schema (2020-12) of a platform file, for editors: keys, kinds, how
// values are written. What it refuses, Parse refuses; what belongs together, Parse alone
// knows. It is made from the types of this package by internal/manifestdoc.
func Schema() []byte { return []byte(schema) }
