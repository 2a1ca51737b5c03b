package facade

import (
	"context"

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
	if r.Id != "me" {
		if err := checkID(r.Id); err != nil {
			return nil, err
		}
	}
	var profile struct{ ID, Username, Email string }
	if _, err := s.do(ctx, call{method: "GET", function: "users/" + r.Id}, &profile); err != nil {
		return nil, err
	}
	return &pb.UserProfile{Id: profile.ID, Username: profile.Username, Email: profile.Email}, nil
}
