// Package fault has the errors of MongoDB's wire protocol: a code, its name, a
// message, and the labels by which drivers decide what to retry.
package fault

import (
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Error is an error as clients see it. Codes and names are those of MongoDB's
// error_codes.yml.
type Error struct {
	Code    int32
	Message string
	Labels  []string
	// Fields are further fields of the reply, as keyPattern and keyValue of a
	// duplicate key: encoded elements, without a document around them.
	Fields []byte
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%d): %s", Name(e.Code), e.Code, e.Message) }

// New returns an error.
func New(code int32, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Transient returns an error after which a driver retries the whole transaction.
func Transient(code int32, format string, args ...any) *Error {
	e := New(code, format, args...)
	e.Labels = []string{"TransientTransactionError"}
	return e
}

// Unsupported returns the error for what this server does not support, by name.
func Unsupported(format string, args ...any) *Error {
	return New(CommandNotSupported, format+" is not supported by this server", args...)
}

// From returns the Error in err, or an InternalError where it has none.
func From(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return New(InternalError, "%v", err)
}

// The codes that this server uses.
const (
	InternalError                  = 1
	BadValue                       = 2
	FailedToParse                  = 9
	Unauthorized                   = 13
	TypeMismatch                   = 14
	InvalidLength                  = 16
	ProtocolError                  = 17
	AuthenticationFailed           = 18
	IllegalOperation               = 20
	InvalidBSON                    = 22
	LockTimeout                    = 24
	NamespaceNotFound              = 26
	IndexNotFound                  = 27
	PathNotViable                  = 28
	CannotCreateIndex              = 67
	ConflictingUpdateOperators     = 40
	CursorNotFound                 = 43
	NamespaceExists                = 48
	MaxTimeMSExpired               = 50
	DollarPrefixedFieldName        = 52
	EmptyFieldName                 = 56
	CommandNotFound                = 59
	ImmutableField                 = 66
	InvalidOptions                 = 72
	InvalidNamespace               = 73
	IndexOptionsConflict           = 85
	IndexKeySpecsConflict          = 86
	ConversionFailure              = 241
	ShutdownInProgress             = 91
	WriteConflict                  = 112
	CommandNotSupported            = 115
	NoSuchTransaction              = 251
	TransactionTooOld              = 225
	TransactionCommitted           = 256
	OperationNotSupportedInTxn     = 263
	CannotIndexParallelArrays      = 171
	SnapshotUnavailable            = 246
	OutOfDiskSpace                 = 14031
	KeyTooLong                     = 17280
	BSONObjectTooLarge             = 10334
	DuplicateKey                   = 11000
	UnknownExpressionOperator      = 168 // InvalidPipelineOperator
	UnrecognizedStage              = 40324
	UnknownCommandField            = 40415
	MissingCommandField            = 40414
	GroupIDMissing                 = 15955
	UnknownAccumulator             = 15952
	GroupFieldNotAccumulator       = 40234
	GroupFieldOneAccumulator       = 40238
	ProjectionMixesInclusion       = 31254
	ProjectionMixesExclusion       = 31253
	ProjectionPathCollision        = 31249
	UnsatisfiableWriteConcern      = 100
	ExceededTimeLimit              = 262
	MechanismUnavailable           = 334
	QueryExceededMemoryLimit       = 292
	InterruptedAtShutdown          = 11600
	ConflictingOperationInProgress = 117
	TransactionExceededLifetime    = 290
)

var names = map[int32]string{
	InternalError: "InternalError", BadValue: "BadValue", FailedToParse: "FailedToParse",
	Unauthorized: "Unauthorized", TypeMismatch: "TypeMismatch", InvalidLength: "InvalidLength", ProtocolError: "ProtocolError",
	AuthenticationFailed: "AuthenticationFailed", MechanismUnavailable: "MechanismUnavailable",
	IllegalOperation: "IllegalOperation", InvalidBSON: "InvalidBSON", LockTimeout: "LockTimeout",
	NamespaceNotFound: "NamespaceNotFound", IndexNotFound: "IndexNotFound", PathNotViable: "PathNotViable",
	CannotCreateIndex: "CannotCreateIndex", ConflictingUpdateOperators: "ConflictingUpdateOperators",
	CursorNotFound: "CursorNotFound", NamespaceExists: "NamespaceExists", MaxTimeMSExpired: "MaxTimeMSExpired",
	DollarPrefixedFieldName: "DollarPrefixedFieldName", EmptyFieldName: "EmptyFieldName",
	CommandNotFound: "CommandNotFound", ImmutableField: "ImmutableField", InvalidOptions: "InvalidOptions",
	InvalidNamespace: "InvalidNamespace", IndexOptionsConflict: "IndexOptionsConflict",
	IndexKeySpecsConflict: "IndexKeySpecsConflict", ShutdownInProgress: "ShutdownInProgress",
	WriteConflict: "WriteConflict", CommandNotSupported: "CommandNotSupported",
	NoSuchTransaction: "NoSuchTransaction", TransactionTooOld: "TransactionTooOld",
	TransactionCommitted: "TransactionCommitted", OperationNotSupportedInTxn: "OperationNotSupportedInTransaction",
	CannotIndexParallelArrays: "CannotIndexParallelArrays", SnapshotUnavailable: "SnapshotUnavailable",
	ConversionFailure: "ConversionFailure", BSONObjectTooLarge: "BSONObjectTooLarge", DuplicateKey: "DuplicateKey",
	UnknownExpressionOperator: "InvalidPipelineOperator", UnsatisfiableWriteConcern: "UnsatisfiableWriteConcern",
	ExceededTimeLimit: "ExceededTimeLimit", QueryExceededMemoryLimit: "QueryExceededMemoryLimitNoDiskUseAllowed",
	InterruptedAtShutdown: "InterruptedAtShutdown", ConflictingOperationInProgress: "ConflictingOperationInProgress",
	TransactionExceededLifetime: "TransactionExceededLifetimeLimitSeconds", OutOfDiskSpace: "OutOfDiskSpace",
	6: "HostUnreachable", 7: "HostNotFound", 11: "UserNotFound", 46: "LockBusy",
	63: "StaleShardVersion", 64: "WriteConcernFailed", 79: "UnknownReplWriteConcern", 89: "NetworkTimeout",
	133: "FailedToSatisfyReadPreference", 136: "CappedPositionLost", 175: "QueryPlanKilled", 189: "PrimarySteppedDown", 202: "NetworkInterfaceExceededTimeLimit",
	237: "CursorKilled", 267: "PreparedTransactionInProgress", 391: "ReauthenticationRequired", 9001: "SocketException", 10107: "NotWritablePrimary", 11601: "Interrupted", 11602: "InterruptedDueToReplStateChange",
	13435: "NotPrimaryNoSecondaryOk", 13436: "NotPrimaryOrSecondary",
}

// Name returns the codeName of a code: for codes without a name, "Location" and the
// number.
func Name(code int32) string {
	if n, ok := names[code]; ok {
		return n
	}
	return fmt.Sprintf("Location%d", code)
}

// AppendTo appends ok:0 and the fields of the error to the elements of a reply.
func (e *Error) AppendTo(dst []byte) []byte {
	dst = bsoncore.AppendDoubleElement(dst, "ok", 0)
	dst = bsoncore.AppendStringElement(dst, "errmsg", e.Message)
	dst = bsoncore.AppendInt32Element(dst, "code", e.Code)
	dst = bsoncore.AppendStringElement(dst, "codeName", Name(e.Code))
	dst = append(dst, e.Fields...)
	return AppendLabels(dst, e.Labels)
}

// AppendLabels appends the errorLabels of a reply, and nothing if there are none.
func AppendLabels(dst []byte, labels []string) []byte {
	if len(labels) == 0 {
		return dst
	}
	vs := make([]bsoncore.Value, len(labels))
	for i, l := range labels {
		vs[i] = bsoncore.Value{Type: bsoncore.TypeString, Data: bsoncore.AppendString(nil, l)}
	}
	return bsoncore.BuildArrayElement(dst, "errorLabels", vs...)
}
