module github.com/kiosk-shop/kiosk/faasd/documents

go 1.26
