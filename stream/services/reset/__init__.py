"""`isthmus reset`: an application forgets its states and reads its inputs again; who was erased stays erased."""
