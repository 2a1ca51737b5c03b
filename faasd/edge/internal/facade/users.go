package facade

import (
	"context"
	"encoding/json"

	"github.com/kiosk-shop/kiosk/proto/pb"
)

type users struct {
	pb.UnimplementedUserServiceServer
	caller
}

func (s users) RegisterUser(ctx context.Context, r *pb.UserRequest) (*pb.UserResponse, error) {
	var created struct{ ID, Message string }
	_, err := s.do(ctx, call{method: "POST", function: "register", creates: true, body: struct {
		Username string `json:"username,omitempty"`
		Email    string `json:"email"`
		Password string `json:"password"`
	}{r.Username, r.Email, r.Password}}, &created)
	if err != nil {
		return nil, err
	}
	return &pb.UserResponse{Id: created.ID, Message: created.Message}, nil
}

func (s users) AuthenticateUser(ctx context.Context, r *pb.AuthRequest) (*pb.AuthResponse, error) {
	var grant struct{ Token, Message string }
	_, err := s.do(ctx, call{method: "POST", function: "authenticate", body: struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}{r.Username, r.Password}}, &grant)
	if err != nil {
		return nil, err
	}
	return &pb.AuthResponse{Token: grant.Token, Message: grant.Message}, nil
}

func (s users) GetUserProfile(ctx context.Context, r *pb.UserID) (*pb.UserProfile, error) {
	a, err := s.GetAccount(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.UserProfile{Id: a.Id, Username: a.Username, Email: a.Email}, nil
}

func (s users) GetAccount(ctx context.Context, r *pb.UserID) (*pb.Account, error) {
	if r.Id != "me" {
		if err := checkID(r.Id); err != nil {
			return nil, err
		}
	}
	var p profile
	if _, err := s.do(ctx, call{method: "GET", function: "users/" + r.Id}, &p); err != nil {
		return nil, err
	}
	return p.message(), nil
}

type profile struct {
	ID            string `json:"id"`
	Username      string `json:"username"`
	Email         string `json:"email"`
	EmailVerified bool   `json:"email_verified"`
	PendingEmail  string `json:"pending_email"`
	Name          string `json:"name"`
	Role          string `json:"role"`
}

func (p profile) message() *pb.Account {
	return &pb.Account{
		Id: p.ID, Username: p.Username, Email: p.Email, EmailVerified: p.EmailVerified, PendingEmail: p.PendingEmail, Name: p.Name, Role: p.Role,
	}
}

func (s users) UpdateUserProfile(ctx context.Context, r *pb.UpdateUserProfileRequest) (*pb.Account, error) {
	if r.Id != "me" {
		if err := checkID(r.Id); err != nil {
			return nil, err
		}
	}
	var p profile
	_, err := s.do(ctx, call{method: "PATCH", function: "users/" + r.Id, body: struct {
		Name            *string `json:"name,omitempty"`
		Email           *string `json:"email,omitempty"`
		Password        *string `json:"password,omitempty"`
		CurrentPassword string  `json:"current_password,omitempty"`
	}{r.Name, r.Email, r.Password, r.CurrentPassword}}, &p)
	if err != nil {
		return nil, err
	}
	return p.message(), nil
}

func (s users) ForgotPassword(ctx context.Context, r *pb.ForgotPasswordRequest) (*pb.AccountMessage, error) {
	var answer struct{ Message string }
	_, err := s.do(ctx, call{method: "POST", function: "authenticate/forgot", body: struct {
		Email string `json:"email"`
	}{r.Email}}, &answer)
	return &pb.AccountMessage{Message: answer.Message}, err
}

func (s users) ResetPassword(ctx context.Context, r *pb.ResetPasswordRequest) (*pb.AccountMessage, error) {
	_, err := s.do(ctx, call{method: "POST", function: "authenticate/reset", body: struct {
		Token    string `json:"token"`
		Password string `json:"password"`
	}{r.Token, r.Password}}, nil)
	return &pb.AccountMessage{Message: "the password is changed"}, err
}

func (s users) VerifyEmail(ctx context.Context, r *pb.VerifyEmailRequest) (*pb.AccountMessage, error) {
	_, err := s.do(ctx, call{method: "POST", function: "authenticate/verify", body: struct {
		Token string `json:"token"`
	}{r.Token}}, nil)
	return &pb.AccountMessage{Message: "the address is verified"}, err
}

func (s users) RequestVerification(ctx context.Context, _ *pb.OwnAccount) (*pb.AccountMessage, error) {
	var answer struct{ Message string }
	_, err := s.do(ctx, call{method: "POST", function: "users/me/verification"}, &answer)
	return &pb.AccountMessage{Message: answer.Message}, err
}

func (s users) ListSessions(ctx context.Context, _ *pb.OwnAccount) (*pb.SessionList, error) {
	var sessions []struct {
		ID        string `json:"id"`
		CreatedAt string `json:"created_at"`
		ExpiresAt string `json:"expires_at"`
		Current   bool   `json:"current"`
	}
	if _, err := s.do(ctx, call{method: "GET", function: "users/me/sessions"}, &sessions); err != nil {
		return nil, err
	}
	list := &pb.SessionList{}
	for _, one := range sessions {
		list.Sessions = append(list.Sessions, &pb.Session{Id: one.ID, CreatedAt: one.CreatedAt, ExpiresAt: one.ExpiresAt, Current: one.Current})
	}
	return list, nil
}

func (s users) EndSession(ctx context.Context, r *pb.EndSessionRequest) (*pb.AccountMessage, error) {
	if err := checkID(r.Id); err != nil {
		return nil, err
	}
	_, err := s.do(ctx, call{method: "DELETE", function: "users/me/sessions/" + r.Id}, nil)
	return &pb.AccountMessage{Message: "the session has ended"}, err
}

func (s users) ExportAccount(ctx context.Context, _ *pb.OwnAccount) (*pb.AccountExport, error) {
	var document json.RawMessage
	_, err := s.do(ctx, call{method: "GET", function: "users/me/export"}, &document)
	return &pb.AccountExport{Json: string(document)}, err
}

func (s users) EraseAccount(ctx context.Context, r *pb.EraseAccountRequest) (*pb.AccountMessage, error) {
	_, err := s.do(ctx, call{method: "POST", function: "users/me/erase", body: struct {
		CurrentPassword string `json:"current_password"`
	}{r.CurrentPassword}}, nil)
	return &pb.AccountMessage{Message: "the account is erased"}, err
}
